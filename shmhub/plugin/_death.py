"""How a plugin's process ended, in words and in errors. Pure data."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, NamedTuple

from shmhub._errors import PluginDiedError

if TYPE_CHECKING:
    from shmhub._rpc import CallLost

__all__ = ["Exit", "died", "with_tail"]


class Exit(NamedTuple):
    """The end of one life of a replica.

    Attributes:
        exitcode: what it returned, or None when a signal ended it.
        signal: the signal's number, or None.
        stderr_tail: the last lines of its standard error.
        reason: what is known beside that ("killed by the watchdog after 5 s"), or "".
    """

    exitcode: int | None
    signal: int | None
    stderr_tail: str = ""
    reason: str = ""

    @classmethod
    def of(cls, returncode: int | None, stderr_tail: str, reason: str = "") -> Exit:
        """From what `Popen.returncode` says."""
        if returncode is None:
            return cls(None, None, stderr_tail, reason)
        if returncode < 0:
            return cls(None, -returncode, stderr_tail, reason)
        return cls(returncode, None, stderr_tail, reason)

    def __str__(self) -> str:
        if self.signal is not None:
            how = f"it was ended by {signal_name(self.signal)}"
        elif self.exitcode is not None:
            how = f"it ended with exit status {self.exitcode}"
        else:
            how = "it is gone"
        return f"{how} ({self.reason})" if self.reason else how


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def with_tail(message: str, tail: str) -> str:
    """A message with the plugin's last words below it."""
    if not tail:
        return f"{message}; it wrote nothing to its standard error"
    indented = "\n".join(f"    {line}" for line in tail.splitlines())
    return f"{message}; the last lines of its standard error:\n{indented}"


def died(
    plugin: str,
    index: int,
    pid: int,
    exit: Exit | None,
    method: str,
    lost: CallLost,
    attempts: int,
    max_attempts: int,
    *,
    is_stream: bool = False,
) -> PluginDiedError:
    """The error of a call, or an open stream, whose plugin died."""
    known = exit or Exit(None, None)
    if lost.consumed:
        what = "the call may have run, and a generator among its arguments has been read"
    elif lost.outcome == "not_started":
        what = "the call had not been started"
    elif attempts > 1:
        what = f"the call may have run, {attempts} times by now (max_attempts={max_attempts})"
    elif is_stream:
        what = "the call may have run; a stream is not opened again"
    else:
        what = "the call may have run; a method that is declared idempotent is called again"
    return PluginDiedError(
        with_tail(
            f"{method}() of plugin {plugin!r} (replica {index}, pid {pid}): {known}; {what}",
            known.stderr_tail,
        ),
        outcome=lost.outcome,
        exitcode=known.exitcode,
        signal=known.signal,
        stderr_tail=known.stderr_tail,
        plugin=plugin,
        method=method,
        attempts=attempts,
        pid=pid,
    )
