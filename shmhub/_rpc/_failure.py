"""Exceptions of the other side: to plain data there, and to RemoteError here.

What arrives is a RemoteError that derives from the nearest built-in exception of what was raised,
too, so that `except ValueError` works; never from one that means something of its own here (a
timeout, a lost connection, the end of an iteration). Its text ends with the remote traceback.
"""

from __future__ import annotations

import builtins
import pickle
import traceback
from typing import Any

from shmhub._errors import (
    CodecError,
    HubTimeoutError,
    Outcome,
    PluginMissingMethod,
    QueueFullError,
    RemoteError,
    ShmhubError,
)
from shmhub._rpc import _wire as wire

__all__ = ["UNTOLD", "CallLost", "Failure", "describe", "plain_failure", "rebuild"]

TEXT_MAX = 4096  # characters of a message
TRACEBACK_MAX = 32768

# Exceptions that say something about this process, or that a caller takes for something else.
EXCLUDED: tuple[type[BaseException], ...] = (
    ShmhubError,
    TimeoutError,
    ConnectionError,
    MemoryError,
    BlockingIOError,
    InterruptedError,
    StopIteration,
    StopAsyncIteration,
    BaseExceptionGroup,
)
# Their constructors ask for more than a message; the next base says enough.
UNBUILDABLE = (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)
# What of them is worth keeping, where it is plain.
ATTRIBUTES = ("errno", "strerror", "filename", "filename2", "name", "path", "lineno", "offset")


def plain_failure(reason: str, text: str = "", *, type_name: str = "") -> tuple[Any, ...]:
    """What an ERROR message holds, without an exception of the other side's; `Failure` reads it."""
    return reason, type_name, text, "", "Exception", {}, None


# The answer of a call whose outcome cannot be put into any other.
UNTOLD = plain_failure(wire.ENCODE, "its outcome cannot be told")


class CallLost(ShmhubError):
    """The other side of a link is gone, and with it a call.

    Attributes:
        outcome: "not_started": it was never received over there; "may_have_run".
        gone: what told so.
        consumed: a generator among its arguments has been read: it cannot be sent again. Those that
            were not are as they were.
    """

    outcome: Outcome = "may_have_run"
    gone: BaseException | None = None
    consumed: bool = False


# ---- over there --------------------------------------------------------------------------------


def reason_of(error: BaseException) -> str:
    """Which kind of failure an exception of a method is."""
    if isinstance(error, SystemExit):
        return wire.EXIT
    if isinstance(error, KeyboardInterrupt):
        return wire.INTERRUPT
    if isinstance(error, MemoryError):
        return wire.MEMORY
    if isinstance(error, RecursionError):
        return wire.RECURSION
    return wire.RAISED


def describe(
    error: BaseException, reason: str | None = None, *, frames: int = 0, pickled: bool = False
) -> tuple[Any, ...]:
    """An exception as plain data.

    Its methods and properties are the application's, and may raise whatever they like: what they
    do not tell is left out, for the call must be answered.

    Args:
        reason: None: by its type.
        frames: so many of the first frames of its traceback are the runtime's own.
        pickled: add the exception itself, if it can be pickled.
    """
    kind = type(error)
    try:
        text = str(error)
    except BaseException as broken:
        text = f"<its text cannot be had: {type(broken).__name__}>"
    attributes = {}
    for name in ATTRIBUTES:
        try:
            value = getattr(error, name, None)
        except BaseException:
            continue
        if type(value) in (str, int) and not (name == "name" and not value):
            attributes[name] = value
    return (
        reason or reason_of(error),
        _qualified(kind),
        _cut(text, TEXT_MAX),
        _cut(_traceback_of(error, frames), TRACEBACK_MAX),
        _base_of(kind).__name__,
        attributes,
        _pickle(error) if pickled else None,
    )


def _traceback_of(error: BaseException, frames: int) -> str:
    try:
        trace = error.__traceback__
        for _ in range(frames):
            if trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
        return "".join(traceback.format_exception(type(error), error, trace))
    except BaseException:  # an exception whose own methods fail, or no memory for it
        return f"{_qualified(type(error))}: its traceback cannot be shown\n"


def _pickle(error: BaseException) -> bytes | None:
    try:
        data = pickle.dumps(error.with_traceback(None), 5)
        # What cannot be rebuilt here will not be there.
        pickle.loads(data)
    except BaseException:
        return None
    return data if len(data) <= TRACEBACK_MAX else None


def _qualified(kind: type[BaseException]) -> str:
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n  [... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _base_of(kind: type[BaseException]) -> type[BaseException]:
    """The nearest built-in exception that a RemoteError may derive from."""
    if not issubclass(kind, Exception):
        return Exception
    if issubclass(kind, ShmhubError) and not issubclass(kind, RemoteError):
        return Exception  # a RemoteError that comes from farther away keeps what it is
    for base in kind.__mro__:
        if base.__module__ != "builtins" or not issubclass(base, Exception):
            continue
        # An exception that is a TimeoutError, say, is an OSError, too; that may be told.
        if issubclass(base, EXCLUDED) or base in UNBUILDABLE:
            continue
        return base
    return Exception


# ---- here --------------------------------------------------------------------------------------

_CLASSES: dict[str, type[RemoteError]] = {}


def _class_for(base_name: str) -> type[RemoteError]:
    """RemoteError that is that built-in exception, too."""
    found = _CLASSES.get(base_name)
    if found is not None:
        return found
    base = getattr(builtins, base_name, None)
    kind: type[RemoteError] = RemoteError
    if (
        isinstance(base, type)
        and issubclass(base, Exception)
        and base is not Exception
        and _base_of(base) is base
    ):
        name = f"Remote{base_name}"
        kind = type(name, (RemoteError, base), {"__module__": "shmhub", "__qualname__": name})
        kind.__doc__ = f"{base_name} was raised on the other side."
        kind.__reduce__ = _reduce  # type: ignore[method-assign, assignment]
    _CLASSES[base_name] = kind
    return kind


def _reduce(self: RemoteError) -> tuple[Any, ...]:
    _, (kind, args, state) = RemoteError.__reduce__(self)
    return _rebuild_remote, (kind.__bases__[1].__name__, args, state)


def _rebuild_remote(base_name: str, args: tuple[Any, ...], state: dict[str, Any]) -> RemoteError:
    return _class_for(base_name)(*args, **state)


class Failure:
    """Why a call failed, as the other side told it: an exception is made of it when asked."""

    __slots__ = ("parts",)

    def __init__(self, payload: Any) -> None:
        """Check what came; it may be anything."""
        shape = (str, str, str, str, str, dict)
        if (
            type(payload) is not tuple
            or len(payload) != 7
            or any(type(one) is not kind for one, kind in zip(payload, shape, strict=False))
            or not isinstance(payload[6], bytes | None)
        ):
            raise CodecError("an ERROR message does not hold what it must")
        self.parts = payload

    @property
    def reason(self) -> str:
        return str(self.parts[0])

    @property
    def pickled(self) -> bytes | None:
        """The exception as it was, pickled."""
        pickled: bytes | None = self.parts[6]
        return pickled

    @property
    def started(self) -> bool:
        """Had the call been started?"""
        return self.reason not in wire.NOT_STARTED and not (
            self.reason == wire.CANCELLED and not self.parts[1]
        )

    def exception(self, what: str, *, unpickle: bool) -> BaseException:
        """What the caller gets.

        Args:
            what: "plugin.method".
            unpickle: rebuild the exception as it was, as `.original`.
        """
        reason, type_name, text, trace, base, attributes, pickled = self.parts
        if reason == wire.DEADLINE:
            return HubTimeoutError(
                f"{what}: its deadline had passed before it was started over there",
                outcome="not_started",
            )
        if reason == wire.MISSING:
            return PluginMissingMethod(f"{what}: {text}")
        if reason in (wire.DECODE, wire.ENCODE):
            return CodecError(f"{what}: {text}")
        if reason == wire.BUSY:
            return QueueFullError(f"{what}: not started: {text}")
        if reason in (wire.WITHDRAWN, wire.STOPPING) or not self.started:
            return CallLost(f"{what}: not started: {text or reason}", outcome="not_started")
        error = _class_for(base)(
            f"{what} raised {type_name}{': ' if text else ''}{text}",
            type_name=type_name,
            remote_traceback=trace,
            reason=reason,
        )
        for name, value in attributes.items():
            if (name in ATTRIBUTES and not hasattr(type(error), name)) or name in ATTRIBUTES:
                try:
                    setattr(error, name, value)
                except (AttributeError, TypeError):
                    continue
        if unpickle and pickled is not None:
            try:
                original = pickle.loads(pickled)
            except Exception:  # its class is not here, or does not take what it gave
                original = None
            if isinstance(original, BaseException):
                error.original = original
        if trace:
            error.add_note(f"Remote traceback ({what}):\n{trace.rstrip()}")
        return error


def rebuild(payload: Any, what: str, *, unpickle: bool) -> BaseException:
    """The exception that an ERROR message stands for; never raises."""
    try:
        return Failure(payload).exception(what, unpickle=unpickle)
    except Exception as error:
        return CodecError(f"{what} failed, and its error cannot be shown: {error}")
