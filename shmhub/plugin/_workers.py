"""A few threads that run what may take long: done-callbacks, event callbacks, sends that wait.

They are daemons and started when there is something to do: a callback that never returns keeps
neither a host from closing nor a program from ending.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["Workers"]

logger = logging.getLogger("shmhub.plugin")


class Workers:
    """Up to `limit` threads; with one of them, things run in the order of posting."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._work: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._closed = False

    def post(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run it in one of the threads; after `close`, in the calling one.

        Raises:
            RuntimeError: no thread can be started.
        """
        with self._changed:
            if not self._closed:
                self._work.append((function, arguments))
                if self._idle >= len(self._work):
                    self._changed.notify()
                elif len(self._threads) < self._limit:
                    thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                    self._threads.add(thread)
                    try:
                        thread.start()
                    except RuntimeError:
                        self._threads.discard(thread)
                        if not self._threads:  # nobody would ever do it
                            self._work.pop()
                            raise
                return
        _guarded(function, arguments)

    def close(self, timeout: float) -> None:
        """Wait up to `timeout` seconds until all is done, then let the threads go."""
        deadline = time.monotonic() + timeout
        self.end()
        with self._changed:
            threads = [one for one in self._threads if one is not threading.current_thread()]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.warning(
                    "a callback in thread %s has not returned within %s s; it is left to itself",
                    thread.name,
                    timeout,
                )

    def end(self) -> None:
        """Let the threads go when all is done; does not wait for that."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._work:
                    if self._closed:
                        return
                    self._idle += 1
                    try:
                        self._changed.wait()
                    finally:
                        self._idle -= 1
                function, arguments = self._work.popleft()
            _guarded(function, arguments)
            del function, arguments  # may be all that keeps something large alive


def _guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        function(*arguments)
    except BaseException:
        logger.exception("a callback raised")
