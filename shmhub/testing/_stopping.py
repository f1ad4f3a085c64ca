"""Stopping a process for a while, so that nobody can tell it from one that is merely slow."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shmhub.testing import _processes

__all__ = ["pids_of", "stopped"]

PATIENCE = 30.0  # seconds: a process that waits for a disk stops later


@contextmanager
def stopped(*targets: Any) -> Iterator[None]:
    """SIGSTOP; SIGCONT on leaving. The body begins when /proc says that no thread runs any more.

    ::

        with stopped(image):            # all its replicas
            future = image.submit("brighten", pixels)
            ...

    One that dies or is killed meanwhile stays dead; what replaces it was never stopped.

    Args:
        targets: handles of plugins, processes with a `pid`, or pids.

    Raises:
        ProcessLookupError: a target has no living process.
        TimeoutError: one does not stop within half a minute.
    """
    pids = [pid for target in targets for pid in pids_of(target)]
    with contextlib.ExitStack() as undo:
        # By pidfd: on leaving, a pid may be somebody else's.
        pidfds = []
        for pid in pids:
            pidfds.append(os.pidfd_open(pid))
            undo.callback(os.close, pidfds[-1])
        for pidfd in pidfds:
            undo.callback(_send, pidfd, signal.SIGCONT)
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        for pid in pids:
            if not _processes.until(lambda pid=pid: _processes.is_stopped(pid), PATIENCE):  # type: ignore[misc]
                raise TimeoutError(f"process {pid} has not stopped within {PATIENCE} s")
        yield


def pids_of(target: Any) -> list[int]:
    """The processes that are meant, at least one.

    Raises:
        TypeError: that is nothing with processes.
        ProcessLookupError: it has none just now.
    """
    if type(target) is int:
        return [target]
    replicas = getattr(target, "replicas", None)
    if isinstance(replicas, tuple):
        pids = [one.pid for one in replicas if one.pid is not None]
    else:
        try:
            pid = target.pid
        except AttributeError:
            raise TypeError(
                f"a plugin's handle, a process or a pid is needed, not {target!r}"
            ) from None
        pids = [] if pid is None else [pid]
    if not pids:
        raise ProcessLookupError(f"{target!r} has no process just now")
    return pids


def _send(pidfd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)
