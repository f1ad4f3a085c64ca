"""A time limit for every test that says where everybody was when it ran out.

When a test's time is up: every thread's stack, the stacks of all child processes, what the hubs say
about themselves; then the children are killed and the main thread gets an exception. Should that
not help either, faulthandler ends the whole run: nothing here ever waits for ever.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import weakref
from types import FrameType
from typing import Any, TextIO

from tests.support.processes import LIVING

# Hosts alive in this process, so that their statistics can be shown.
HOSTS: weakref.WeakSet[Any] = weakref.WeakSet()

# How much later than its limit a test that does not even react to the exception ends the run.
# Machines stand still, or starve a process, for minutes: the limit does not count that; this must.
_LAST_RESORT = 210.0
_LONGEST_WAIT = 10.0


class TimeLimitExceeded(BaseException):
    """Not an Exception, so that no test and no tested code swallows it."""


class Watchdog:
    """One thread for the whole run; armed for one test at a time."""

    def __init__(self) -> None:
        self._output: TextIO = os.fdopen(os.dup(2), "w")
        self._changed = threading.Condition()
        self._left: float | None = None
        self._test = ""
        self.fired = False
        signal.signal(signal.SIGALRM, self._raise)
        threading.Thread(target=self._watch, name="test watchdog", daemon=True).start()

    def arm(self, test: str, limit: float) -> None:
        faulthandler.dump_traceback_later(limit + _LAST_RESORT, exit=True, file=self._output)
        with self._changed:
            self._test, self._left, self.fired = test, limit, False
            self._changed.notify()

    def disarm(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        with self._changed:
            self._left = None
            self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                if self._left is None:
                    self._changed.wait()
                    continue
                if self._left > 0:
                    wait = min(self._left, _LONGEST_WAIT)
                    if not self._changed.wait(wait) and self._left is not None:
                        self._left -= wait  # however long the machine stood still in it
                    continue
                self._left, self.fired = None, True
            self._fire()

    def _fire(self) -> None:
        self._say(f"\n=== time is up for {self._test} ===")
        faulthandler.dump_traceback(self._output)
        for child in list(LIVING):
            child.signal(signal.SIGUSR1)
        time.sleep(0.3)  # nothing tells when a child has printed its stacks
        for child in list(LIVING):
            self._say(f"--- process {child.pid}:\n{child.read_stderr()}")
            child.kill()
        # In a thread of its own: a hub that hangs may hang here, too.
        threading.Thread(target=self._describe_hubs, daemon=True).start()
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGALRM)

    def _describe_hubs(self) -> None:
        for host in list(HOSTS):
            if not host.closed:
                self._say(f"--- {host!r}: {host.statistics()!r}\n{host.peers!r}")

    def _say(self, text: str) -> None:
        print(text, file=self._output, flush=True)

    def _raise(self, _signal: int, _frame: FrameType | None) -> None:
        if self.fired:
            raise TimeLimitExceeded(f"{self._test} took longer than its limit")
        print("SIGALRM without a reason", file=sys.stderr)
