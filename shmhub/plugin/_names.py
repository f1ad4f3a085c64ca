"""Names that mean something on the calling side, so that no method may have them by accident."""

from __future__ import annotations

__all__ = ["CALLBACK_NAMES", "HANDLE_NAMES", "check_method_name"]

# What PluginHandle offers itself; a test compares.
HANDLE_NAMES = frozenset(
    {
        "call",
        "call_all",
        "kill",
        "methods",
        "name",
        "notify",
        "options",
        "pid",
        "replicas",
        "restart",
        "state",
        "stop",
        "stream",
        "submit",
        "wait_ready",
    }
)
# What `plugin.host` offers itself.
CALLBACK_NAMES = frozenset({"call", "notify", "stream", "submit"})


def check_method_name(name: str, *, chosen: bool, what: str, taken: frozenset[str]) -> None:
    """Refuse a name that could not be called.

    Args:
        chosen: the name was given on purpose, so that one of the handle's is meant.
        what: "@plugin.method" or the like, for messages.

    Raises:
        ValueError: the message says what to do.
    """
    if not name.isidentifier():
        raise ValueError(f"{what}: {name!r} is no name that can be called; pass name='...'")
    if name.startswith("_"):
        raise ValueError(
            f"{what}: {name!r} begins with an underscore, and such names never leave their "
            "program; pass name='...'"
        )
    if name in taken and not chosen:
        raise ValueError(
            f"{what}: {name!r} is a name of the caller's side ({', '.join(sorted(taken))}); pass "
            f"name={name!r} to keep it (call it as .methods.{name}(...)), or choose another"
        )
