"""Does a plugin offer what its caller's interface says? Names and signatures, compared.

The question for each method: is every call that the interface allows one that the plugin takes?
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from shmhub._errors import InterfaceError

__all__ = ["Parameter", "check_interface", "parameters_of"]

# (name, kind, has a default), with the kinds of inspect.Parameter by name: plain data, so that it
# can be sent in a hello.
Parameter = tuple[str, str, bool]

_POSITIONAL = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")
_KEYWORD = ("KEYWORD_ONLY", "POSITIONAL_OR_KEYWORD")


def parameters_of(function: Any, *, bound: bool = False) -> list[Parameter] | None:
    """The parameters of a function; None: it does not tell (some are written in C).

    Args:
        bound: leave out the first one (`self`).
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    found = [
        (one.name, one.kind.name, one.default is not one.empty)
        for one in signature.parameters.values()
    ]
    return found[1:] if bound else found


def check_interface(plugin: str, interface: type, methods: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare an interface with what a plugin said in its hello.

    Args:
        interface: a Protocol or another class; its public functions count.

    Raises:
        InterfaceError: they differ; the message has a line for each difference.
    """
    differences = []
    for name, function in _wanted(interface):
        offered = methods.get(name)
        if offered is None:
            differences.append(f"{name}: the plugin has no such method")
            continue
        ours, theirs = parameters_of(function, bound=True), offered.get("parameters")
        if ours is None or theirs is None:
            continue
        differences += [
            f"{name}: {what} (interface {inspect.signature(function)}, plugin "
            f"{offered.get('signature', '?')})"
            for what in _mismatches(ours, [tuple(one) for one in theirs])
        ]
    if differences:
        lines = "\n".join(f"    {one}" for one in differences)
        raise InterfaceError(
            f"plugin {plugin!r} does not offer what {interface.__qualname__} says:\n{lines}"
        )


def _wanted(interface: type) -> Iterable[tuple[str, Any]]:
    seen: set[str] = set()
    for cls in interface.__mro__:
        if cls in (object, Protocol) or cls.__module__ in ("typing", "typing_extensions"):
            continue
        if cls.__name__ == "PluginHandle" and cls.__module__.startswith("shmhub"):
            break  # an interface may derive from it, to have its names known to type checkers
        for name, value in vars(cls).items():
            if isinstance(value, staticmethod | classmethod | property):
                continue
            if inspect.isfunction(value) and not name.startswith("_") and name not in seen:
                seen.add(name)
                yield name, value


def _mismatches(ours: Sequence[Parameter], theirs: Sequence[Parameter]) -> list[str]:
    """Why some call that fits `ours` would not fit `theirs`; empty: none."""
    kinds = {kind for _, kind, _ in theirs}
    takes_more, takes_any_name = "VAR_POSITIONAL" in kinds, "VAR_KEYWORD" in kinds
    by_place = [one for one in theirs if one[1] in _POSITIONAL]
    by_name = {one[0]: one for one in theirs if one[1] in _KEYWORD}
    found = []
    covered: set[str] = set()
    place = 0
    for name, kind, optional in ours:
        if kind == "VAR_POSITIONAL":
            if not takes_more:
                found.append(f"*{name} is not taken")
            continue
        if kind == "VAR_KEYWORD":
            if not takes_any_name:
                found.append(f"**{name} is not taken")
            continue
        other: Parameter | None = None
        if kind in _POSITIONAL:
            if place < len(by_place):
                other = by_place[place]
            elif not takes_more:
                found.append(f"{name!r} is not taken at place {place + 1}")
            place += 1
            if kind == "POSITIONAL_OR_KEYWORD" and other is not None and other[0] != name:
                found.append(f"{name!r} is {other[0]!r} there")
        if kind in _KEYWORD and not any(name in text for text in found):
            named = by_name.get(name)
            if named is None and not takes_any_name:
                found.append(f"{name!r} is not taken by name")
            other = other or named
        if other is not None:
            covered.add(other[0])
            if optional and not other[2]:
                found.append(f"{other[0]!r} has no default there")
    found += [
        f"{name!r} is needed there"
        for name, kind, optional in theirs
        if not optional and name not in covered and kind not in ("VAR_POSITIONAL", "VAR_KEYWORD")
    ]
    return found
