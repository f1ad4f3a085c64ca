"""One life of one replica as its group sees it: what it is busy with, how much it has room for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from shmhub.plugin._workers import Workers

if TYPE_CHECKING:
    from shmhub._rpc import Call, CallLost, Link
    from shmhub.plugin._death import Exit
    from shmhub.plugin._future import CallFuture, OpenStream

__all__ = ["Channel"]

# How much work is sent ahead to a replica that is busy, and how many calls at most: the ring of a
# replica that is stopped shall not fill up, or the rest waits in a thread of its own.
PREFETCH_SECONDS = 0.002
PREFETCH_CALLS = 32
# No call counts as longer than this when the usual time is reckoned: one slow call among fast ones
# shall not make the next hundred travel one by one.
LONGEST = 0.05
# A new measurement counts this much.
_WEIGHT = 0.125


class Channel:
    """The group's lock guards all of it.

    Attributes:
        threads: calls that run over there at a time.
        window: calls that may be there: those, and as many more as will be done with within
            PREFETCH_SECONDS.
        in_flight: calls that are there or on their way; one that nobody waits for any more counts
            until it is answered, because it keeps the replica busy until then.
        calls: those of them that have a Future, and streams, in the order in which they were sent.
        held_up: those of `calls` that wait for room to be sent, or go after such a one.
        patient: the thread that sends those.
        direct: those that have none, and when they began; only kept for a watchdog.
        exit: how it ended, when that is known.
        mourners: calls that were lost with it, until that is known; None: it is.
    """

    def __init__(
        self,
        index: int,
        pid: int,
        link: Link,
        threads: int,
        methods: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.index = index
        self.pid = pid
        self.link = link
        self.threads = threads
        self.methods = methods
        self.window = threads + 1
        self.in_flight = 0
        self.calls: dict[CallFuture | OpenStream, None] = {}
        self.held_up = 0
        self.patient = Workers(1, f"shmhub calls to {link.name}")
        self.direct: dict[Call, float] = {}
        self.seconds_per_call = PREFETCH_SECONDS
        self.last_moment = 0.0  # of an answer, or of the first call after idling
        self.exit: Exit | None = None
        self.freed: Callable[[Call], None] | None = None  # by the group
        self.taken: Callable[[], None] | None = None  # by the group
        # The short way; see `Link.open_caller`.
        self.caller = link.open_caller(self._freed, self._taken)
        self.mourners: list[tuple[CallFuture, CallLost]] | None = []

    def _freed(self, call: Call) -> None:
        if self.freed is not None:
            self.freed(call)

    def _taken(self) -> None:
        if self.taken is not None:
            self.taken()

    def measure(self, now: float) -> None:
        """A call was answered: reckon how much to send ahead."""
        spent = min(now - self.last_moment, LONGEST)
        self.last_moment = now
        usual = self.seconds_per_call
        self.seconds_per_call = usual = usual + (spent - usual) * _WEIGHT
        ahead = PREFETCH_SECONDS / usual if usual > 1e-9 else PREFETCH_CALLS
        self.window = self.threads + min(PREFETCH_CALLS, int(ahead))

    def room(self) -> int:
        """Calls that it may have, though it is busy: none ahead while a long one is running."""
        if time.monotonic() - self.last_moment > PREFETCH_SECONDS:
            return self.threads
        return self.window

    @property
    def wants_more(self) -> bool:
        """Is it worth waking somebody to send it more? Not for each call alone."""
        return self.in_flight <= self.threads or self.in_flight * 2 <= self.window
