"""One thread that waits for descriptors, for moments, and for work that others post to it.

It starts every plugin (the kernel ends a plugin with the *thread* that started it) and owns all
their states, so that these need no locks. Knows nothing of plugins.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from shmhub._errors import HubClosedError

__all__ = ["Loop", "Timer"]

logger = logging.getLogger("shmhub.plugin")

# epoll takes at most INT_MAX milliseconds, 25 days: a loop that waits for longer looks again.
_LONGEST_SECONDS = 86400.0


class Timer:
    """Something to be done at a moment, unless it is cancelled before."""

    __slots__ = ("_arguments", "_function", "cancelled", "when")

    def __init__(self, when: float, function: Callable[..., Any], arguments: tuple[Any, ...]):
        self.when = when
        self.cancelled = False
        self._function: Callable[..., Any] | None = function
        self._arguments = arguments

    def cancel(self) -> None:
        self.cancelled = True
        self._function, self._arguments = None, ()

    def run(self) -> None:
        if self._function is not None:
            self._function(*self._arguments)


class Loop:
    """`post` and `close` are for any thread, the rest for functions that run in the loop.

    What a function raises is logged; the loop goes on.
    """

    def __init__(self, name: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self._tasks: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._lock = threading.Lock()  # for _closing and _wake: none is written to once closed
        self._closing = False
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def post(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have the loop call it soon, in the order of posting.

        Raises:
            HubClosedError: the loop is closed.
        """
        with self._lock:
            if self._closing:
                raise HubClosedError(f"{self.thread.name}: its host is closed")
            self._tasks.append((function, arguments))
            os.eventfd_write(self._wake, 1)

    def call_at(self, when: float, function: Callable[..., Any], *arguments: Any) -> Timer:
        """Have it called at a moment of `time.monotonic()`."""
        timer = Timer(when, function, arguments)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def watch(self, fd: int, function: Callable[[], Any]) -> None:
        """Have it called whenever the descriptor is readable."""
        self._selector.register(fd, selectors.EVENT_READ, function)

    def unwatch(self, fd: int) -> None:
        self._selector.unregister(fd)

    @property
    def is_here(self) -> bool:
        """Does the calling thread run this loop?"""
        return threading.current_thread() is self.thread

    def close(self) -> None:
        """Do what was posted before, then end the thread; what is set for later is dropped."""
        with self._lock:
            if not self._closing:
                self._closing = True
                os.eventfd_write(self._wake, 1)
        if not self.is_here:
            self.thread.join()

    def _run(self) -> None:
        try:
            while not self._closing or self._tasks:
                for key, _ in self._selector.select(self._patience()):
                    if key.data is None:
                        os.eventfd_read(self._wake)
                    else:
                        self._guarded(key.data)
                for _ in range(len(self._tasks)):
                    function, arguments = self._tasks.popleft()
                    self._guarded(function, *arguments)
                now = time.monotonic()
                while self._timers and self._timers[0][0] <= now:
                    self._guarded(heapq.heappop(self._timers)[2].run)
        finally:
            with self._lock:
                self._closing = True
                self._selector.close()
                os.close(self._wake)

    def _patience(self) -> float | None:
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        if self._closing or self._tasks:
            return 0.0
        if not self._timers:
            return None
        return min(_LONGEST_SECONDS, max(0.0, self._timers[0][0] - time.monotonic()))

    def _guarded(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:
            logger.exception("a mistake in shmhub itself, in %s", self.thread.name)
