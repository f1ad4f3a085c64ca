"""Threads that execute calls: started when needed, ended when there is nothing more to do.

A thread that waits for an answer of the other side can be taken off the count (`waiting`): with
all of them waiting for calls that come back here, nobody would be left to execute those.
Knows nothing of calls.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["Loop", "Workers"]

logger = logging.getLogger("shmhub")

IDLE = 10.0  # seconds that a thread waits for more to do


class Workers:
    """Up to `most` threads that run functions. Safe from several threads."""

    def __init__(self, most: int, *, name: str) -> None:
        self._most = most
        self._name = name
        self._tasks: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._idle = 0
        self._threads: set[threading.Thread] = set()
        self._counted = 0  # threads that are not taken off
        self._closed = False
        self._made = 0
        self._local = threading.local()

    def submit(self, function: Callable[..., object], *args: Any) -> None:
        """Run it soon; what it raises is logged."""
        with self._lock:
            self._tasks.append((function, args))
            self._see_to_it()

    def _see_to_it(self) -> None:
        """With the lock: somebody must take what is there."""
        if self._idle >= len(self._tasks):
            self._more.notify()
        elif self._counted < self._most and not self._closed:
            self._made += 1
            thread = threading.Thread(
                target=self._work, name=f"{self._name}-{self._made}", daemon=True
            )
            self._threads.add(thread)
            self._counted += 1
            thread.start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a wait: if this is one of the threads it does not count meanwhile."""
        if not getattr(self._local, "works", False):
            yield
            return
        with self._lock:
            self._counted -= 1
            if self._tasks:
                self._see_to_it()
        try:
            yield
        finally:
            with self._lock:
                self._counted += 1

    def _work(self) -> None:
        self._local.works = True
        try:
            while True:
                with self._lock:
                    if not self._tasks:
                        self._idle += 1
                        woken = self._more.wait_for(lambda: self._tasks or self._closed, IDLE)
                        self._idle -= 1
                        if not woken or not self._tasks:
                            break
                    function, args = self._tasks.popleft()
                try:
                    function(*args)
                except BaseException:
                    logger.exception("%s: a task failed", self._name)
                del function, args
                with self._lock:
                    if self._counted > self._most:
                        break  # others began while this one waited
        finally:
            with self._lock:
                self._counted -= 1
                self._threads.discard(threading.current_thread())
                if self._tasks:
                    self._see_to_it()

    def close(self, timeout: float | None = None) -> None:
        """No more threads; wait for those that are there to run out of tasks."""
        with self._lock:
            self._closed = True
            self._more.notify_all()
            threads = [one for one in self._threads if one is not threading.current_thread()]
        for thread in threads:
            thread.join(timeout)


class Loop:
    """An event loop in a thread of its own, started when it is first needed."""

    def __init__(self, *, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def submit(self, make: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> None:
        """Run the coroutine that `make` makes; what it raises is logged."""
        with self._lock:
            if self._loop is None:
                import asyncio  # most plugins never need it

                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            loop = self._loop
        loop.call_soon_threadsafe(self._begin, make, args)

    def _begin(
        self, make: Callable[..., Coroutine[Any, Any, object]], args: tuple[Any, ...]
    ) -> None:
        assert self._loop is not None
        task = self._loop.create_task(make(*args))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s: a task failed", self._name, exc_info=task.exception())

    def _run(self) -> None:
        import asyncio

        loop = self._loop
        assert loop is not None
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(
                asyncio.gather(*asyncio.all_tasks(loop), return_exceptions=True)
            )
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def close(self, timeout: float | None = None) -> None:
        """Cancel what runs and end."""
        with self._lock:
            loop, thread = self._loop, self._thread
        if loop is None or thread is None or not thread.is_alive():
            return
        try:
            loop.call_soon_threadsafe(loop.stop)
        except RuntimeError:  # closed already
            return
        if thread is not threading.current_thread():
            thread.join(timeout)
