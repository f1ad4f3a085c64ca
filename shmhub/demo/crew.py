"""A plugin of the demo as its host sees it: a process that may have several lives, and its jobs.

Knows how to start and end the process and how much work it may have at once; what the work is and
what its messages mean is the runner's.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from shmhub import HubHost
from shmhub.demo.jobs import Kind
from shmhub.demo.tally import Task

__all__ = ["LARGE", "SIGKILLED", "DemoFailed", "Plugin"]

WINDOW: Final = 12
LARGE_WINDOW: Final = 3
LARGE: Final = 256 << 10

MAX_STARTS: Final = 60
GOODBYE: Final = 30.0
"""Seconds a plugin has to end by itself."""

SIGKILLED: Final = -9


class DemoFailed(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(eq=False, slots=True)
class Plugin:
    """One of the three. `process` and `peer_id` are those of its present life."""

    kind: Kind
    waiting: deque[Task] = field(default_factory=deque)
    in_flight: dict[int, Task] = field(default_factory=dict)
    """By message id, in the order in which they were sent."""
    process: subprocess.Popen[bytes] | None = None
    peer_id: int = 0
    starts: int = 0
    greeted: bool = False
    """It has attached and said so."""
    killed: bool = False
    """By us, and the hub has not yet told of its death."""
    seconds: float = 0.0
    """While it had work."""
    _busy_since: float = 0.0

    @property
    def label(self) -> str:
        return self.kind.label

    @property
    def ready(self) -> bool:
        return self.greeted and not self.killed

    @property
    def unfinished(self) -> list[Task]:
        return [*self.in_flight.values(), *self.waiting]

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    # -- jobs ------------------------------------------------------------------------------------

    def has_room_for(self, task: Task) -> bool:
        """Few jobs, and fewer large ones: their slots are those that answers may need."""
        if len(self.in_flight) >= WINDOW:
            return False
        large = sum(other.cost > LARGE for other in self.in_flight.values())
        return task.cost <= LARGE or large < LARGE_WINDOW

    def sent(self, number: int, task: Task) -> None:
        if not self.in_flight:
            self._busy_since = time.monotonic()
        self.in_flight[number] = task

    def answered(self, number: int) -> None:
        del self.in_flight[number]
        if not self.in_flight:
            self.seconds += time.monotonic() - self._busy_since

    def take_all(self) -> dict[int, Task]:
        """All jobs in flight, which it has no longer."""
        taken = dict(self.in_flight)
        for number in taken:
            self.answered(number)
        return taken

    # -- lives -----------------------------------------------------------------------------------

    def start(self, host: HubHost) -> None:
        self.starts += 1
        if self.starts > MAX_STARTS:
            raise DemoFailed(f"the {self.label} plugin was started {MAX_STARTS} times")
        info = host.add_peer(self.label)
        self.peer_id = info.peer_id
        self.greeted = self.killed = False
        program = f"shmhub.demo.plugin_{self.label}"
        self.process = info.popen([sys.executable, "-m", program], stdin=subprocess.DEVNULL)

    def greet(self, payload: bytes) -> None:
        """It says who it is: that must be the process that was started."""
        if payload != str(self.pid).encode():
            raise DemoFailed(
                f"the {self.label} plugin, pid {self.pid}, says that it is {payload!r}"
            )
        self.greeted = True

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.killed = True

    def reap(self) -> int:
        """Its peer is gone: wait for the process; its exit status."""
        assert self.process is not None
        try:
            status = self.process.wait(GOODBYE)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"the {self.label} plugin hung up, but lives") from None
        if not self.greeted and status != SIGKILLED:  # nor would the next one
            raise DemoFailed(f"the {self.label} plugin did not start, status {status}")
        return status

    def goodbye(self) -> int | None:
        """Wait until it ends now that the host is closed; None: it had to be killed.

        0 as well if it had ended before.
        """
        if self.process is None or self.process.returncode is not None:
            return 0
        try:
            return self.process.wait(GOODBYE)
        except subprocess.TimeoutExpired:
            self.abandon()
            return None

    def abandon(self) -> None:
        """End it now, whatever it is doing."""
        if self.process is not None:
            with contextlib.suppress(OSError):
                self.process.kill()
            self.process.wait()
