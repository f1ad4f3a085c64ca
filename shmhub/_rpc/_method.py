"""What one side lets the other call: functions, looked at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

__all__ = ["Kind", "Method"]

Kind = Literal["call", "stream"]


@dataclass(slots=True)
class Method:
    """One function that the other side may call.

    Attributes:
        name: by which it is called.
        kind: "stream": a generator, whose items are answers of their own.
        is_async: a coroutine function or an async generator.
        idempotent: may run again when nobody knows whether it has run.
        signature: as text, for people and for comparison with an interface.
        doc: first line of its docstring.
        views: parameters annotated `memoryview`, by position and by name.
    """

    name: str
    function: Callable[..., Any]
    kind: Kind
    is_async: bool
    idempotent: bool
    signature: str
    doc: str
    views: frozenset[int | str]

    @classmethod
    def of(
        cls, function: Callable[..., Any], *, name: str | None = None, idempotent: bool = False
    ) -> Method:
        """Look at a function.

        Raises:
            TypeError: it is not callable.
        """
        if not callable(function):
            raise TypeError(f"{function!r} is not callable and cannot be a method")
        target = inspect.unwrap(function)
        if not inspect.isroutine(target) and not inspect.isclass(target):
            target = type(target).__call__
        stream = inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target)
        return cls(
            name=str(name or getattr(function, "__name__", type(function).__name__)),
            function=function,
            kind="stream" if stream else "call",
            is_async=inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target),
            idempotent=idempotent,
            signature=signature_of(function),
            doc=(inspect.getdoc(function) or "").partition("\n")[0],
            views=_views_of(function),
        )

    def described(self) -> dict[str, Any]:
        """For the handshake: plain data."""
        return {
            "name": self.name,
            "kind": self.kind,
            "async": self.is_async,
            "idempotent": self.idempotent,
            "signature": self.signature,
            "doc": self.doc,
        }


def signature_of(function: Callable[..., Any]) -> str:
    """The signature as text; "(...)" where there is none to be had."""
    try:
        return str(inspect.signature(function, eval_str=True))
    except Exception:  # annotations may name what is not there at run time
        pass
    try:
        return str(inspect.signature(function))
    except (TypeError, ValueError):
        return "(...)"


def _views_of(function: Callable[..., Any]) -> frozenset[int | str]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return frozenset()
    try:
        hints = get_type_hints(function)
    except Exception:  # annotations may name what is not there at run time
        hints = {}
    found: set[int | str] = set()
    for index, parameter in enumerate(parameters):
        annotation = hints.get(parameter.name, parameter.annotation)
        if annotation is not memoryview and annotation != "memoryview":
            continue
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            found.add(index)
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            found.add(parameter.name)
    return frozenset(found)
