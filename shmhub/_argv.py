"""The plugin's command line: `--hub-path=… --peer-id=… --doorbell-fd=…`, made and read.

Knows nothing of hubs: text in, text and numbers out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from shmhub._errors import NotAttachedError

__all__ = ["PluginArguments", "parse_plugin_argv", "plugin_argv"]

HUB_PATH = "--hub-path"
PEER_ID = "--peer-id"
DOORBELL_FD = "--doorbell-fd"
OPTIONS = (HUB_PATH, PEER_ID, DOORBELL_FD)

# An id of 0 is the host's; the hub itself says how many there are.
PEER_ID_RANGE = (1, 63)
DOORBELL_FD_RANGE = (0, 2**31 - 1)


class PluginArguments(NamedTuple):
    """What a plugin is told at its start."""

    hub_path: str
    peer_id: int
    doorbell_fd: int


def plugin_argv(*, hub_path: str, peer_id: int, doorbell_fd: int) -> list[str]:
    """The arguments that `parse_plugin_argv` reads."""
    return [
        f"{HUB_PATH}={hub_path}",
        f"{PEER_ID}={peer_id}",
        f"{DOORBELL_FD}={doorbell_fd}",
    ]


def parse_plugin_argv(argv: Sequence[str] | None = None) -> PluginArguments:
    """Find the hub's arguments among a program's own, which are left alone.

    Args:
        argv: None: those of this program. Both `--peer-id=3` and `--peer-id 3` are understood; of
            several the last one counts, because a host appends its own.

    Raises:
        NotAttachedError: one is missing, or its value is wrong; the message says which and why.
    """
    found = _collect(sys.argv[1:] if argv is None else argv)
    missing = [option for option in OPTIONS if option not in found]
    if missing:
        raise NotAttachedError(
            f"attach to a hub: {' and '.join(missing)} missing on the command line "
            f"({_given(found)}); a plugin is started by its host, with "
            f"{HUB_PATH}=PATH {PEER_ID}=ID {DOORBELL_FD}=FD: see PeerInfo.popen and PeerInfo.argv"
        )
    hub_path = found[HUB_PATH]
    if not hub_path or "\0" in hub_path:
        raise NotAttachedError(
            f"attach to a hub: {HUB_PATH} must be the path of a hub, not {hub_path!r}"
        )
    return PluginArguments(
        hub_path=hub_path,
        peer_id=_number(PEER_ID, found[PEER_ID], PEER_ID_RANGE),
        doorbell_fd=_number(DOORBELL_FD, found[DOORBELL_FD], DOORBELL_FD_RANGE),
    )


def _collect(argv: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    arguments = iter(argv)
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option not in OPTIONS:
            continue
        found[option] = value if equals else _following(option, next(arguments, None))
    return found


def _following(option: str, value: str | None) -> str:
    """The value of the two-word form; another option in its place is none."""
    if value is None or value.startswith("--"):
        raise NotAttachedError(
            f"attach to a hub: {option} has no value on the command line "
            f"({'it is the last word' if value is None else f'{value!r} follows it'})"
        )
    return value


def _number(option: str, text: str, limits: tuple[int, int]) -> int:
    low, high = limits
    # int() would take "1_0", " 3" and digits of any script.
    if text.isascii() and text.isdigit() and len(text) <= 10 and low <= int(text) <= high:
        return int(text)
    raise NotAttachedError(
        f"attach to a hub: {option} must be a number from {low} to {high}, not {text!r}"
    )


def _given(found: dict[str, str]) -> str:
    if not found:
        return "none of the hub's arguments is there"
    return "given: " + " ".join(f"{option}={value}" for option, value in found.items())
