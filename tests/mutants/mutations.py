"""Which one-line changes of a site count: other than in the memory order alone."""

from __future__ import annotations

import re

from tests.mutants.sites import Site
from tests.mutants.source import closing

DROPPED = "(void)0"


def arguments(call: str) -> list[str]:
    start = call.index("(")
    inside, parts, depth, last = call[start + 1 : closing(call, start)], [], 0, 0
    for at, one in enumerate(inside):
        if one in "([{":
            depth += 1
        elif one in ")]}":
            depth -= 1
        elif one == "," and depth == 0:
            parts.append(inside[last:at].strip())
            last = at + 1
    return [*parts, inside[last:].strip()]


def _atomic(text: str) -> list[str]:
    name = text[: text.index("(")].strip()
    width = re.search(r"(8|32|64)$", name)
    bits = width[1] if width else ""
    if name == "__atomic_load_n":
        return ["0", "1"]
    if name == "__atomic_exchange_n":  # a release store and a full fence in one: the store alone
        return ["__atomic_store_n(&p->value, v, __ATOMIC_RELEASE)"]
    if name.startswith("hub_load"):
        return ["0", "1", f"(uint{bits}_t)-1"]
    if name.startswith("hub_store"):
        pointer, value = arguments(text)
        wrong = f"hub_store_relaxed_{bits}({pointer}, (uint{bits}_t)({value}) ^ 1)"
        return [DROPPED, wrong]
    if name.startswith("hub_cas"):
        pointer, _, wanted = arguments(text)
        # It says that it has won: without having stored, or having stored over what another did.
        return ["1", f"(hub_store_release_{bits}({pointer}, {wanted}), 1)", "0"]
    if name.startswith(("hub_fetch", "hub_exchange")):
        return ["0", "1"]
    return [DROPPED]


def _safeguard(text: str) -> list[str]:
    """Not called; where its value is used: as if it had found nothing, or all well."""
    return [DROPPED, "0", "1"]


def mutations(site: Site) -> list[str]:
    """What the site's text may be replaced with: the likeliest to be noticed first."""
    if site.kind == "check":
        return ["0", "1"] if site.dropped == "?" else [site.dropped]
    if site.kind == "safeguard":
        return _safeguard(site.key.text)
    if site.kind == "fence":
        return [DROPPED]
    return _atomic(site.key.text)
