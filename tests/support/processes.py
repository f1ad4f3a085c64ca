"""Child processes held by pidfd, so that a signal can never reach a stranger with the same pid."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from typing import IO

from tests.support.environment import PATIENCE

# Every child that may be alive: the watchdog kills these when a test's time is up.
LIVING: set[Child] = set()


class Child(ABC):
    """A process of ours. ``close`` always kills and reaps it."""

    def __init__(self, pid: int, pidfd: int, stderr: IO[bytes] | None = None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._stderr = stderr
        self._returncode: int | None = None
        LIVING.add(self)

    @abstractmethod
    def _reap(self) -> int:
        """Collects the exit status of a process that has ended; negative: the signal."""

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; nothing happens when the process has ended."""
        if self._returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def has_ended(self) -> bool:
        return self._returncode is not None or self._poll(0)

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit status as in subprocess: negative for a signal."""
        if self._returncode is None:
            if not self._poll(patience):
                raise AssertionError(f"process {self.pid} did not end within {patience} s")
            self._returncode = self._reap()
            LIVING.discard(self)
        return self._returncode

    def kill_and_wait(self) -> None:
        self.kill()
        self.wait()

    def stop(self) -> None:
        """SIGSTOP, and waits until it has taken effect in every thread."""
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        while not self._is_stopped():
            if time.monotonic() > deadline:
                raise AssertionError(f"process {self.pid} did not stop")
            time.sleep(0.001)

    def cont(self) -> None:
        self.signal(signal.SIGCONT)

    def read_stderr(self) -> str:
        """What the process has written to its standard error so far."""
        if self._stderr is None or self._stderr.closed:
            return ""
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), size, 0).decode(errors="replace")

    def close(self) -> None:
        if self.pidfd >= 0:
            if self._returncode is None:
                self.kill_and_wait()
            os.close(self.pidfd)
            self.pidfd = -1
        if self._stderr is not None:
            self._stderr.close()

    def _poll(self, seconds: float) -> bool:
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(seconds * 1000))

    def _is_stopped(self) -> bool:
        folder = f"/proc/{self.pid}/task"
        try:
            for tid in os.listdir(folder):
                with open(f"{folder}/{tid}/stat") as file:
                    if file.read().rpartition(")")[2].split()[0] not in "TtZX":
                        return False
        except (FileNotFoundError, ProcessLookupError):
            return self.has_ended()
        return True


class ExecutedChild(Child):
    """A program started with exec."""

    def __init__(self, popen: subprocess.Popen[bytes], stderr: IO[bytes] | None = None) -> None:
        self.popen = popen
        super().__init__(popen.pid, os.pidfd_open(popen.pid), stderr)

    def _reap(self) -> int:
        return self.popen.wait()


def die_with_parent() -> None:
    """Has the kernel kill this process when the one that started it ends."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
