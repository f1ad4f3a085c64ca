"""Kills plugins at random while they work: with SIGKILL, in the middle of calls."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import signal
import threading
from collections.abc import Callable, Mapping

from shmhub import PluginHandle

__all__ = ["Chaos"]

_LONGEST_DELAY = 0.05  # seconds from a call's begin to the kill


class Chaos:
    """Kills a replica soon after every ``every``-th call that began on its plugin.

    Counted by calls and not by time: so slow machines see as many kills as fast ones. ``told`` is
    called after each kill.
    """

    def __init__(
        self,
        handles: Mapping[str, PluginHandle],
        every: int,
        told: Callable[[], object],
        seed: int | None = None,
    ) -> None:
        self._handles = handles
        self._every = every
        self._told = told
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._calls = 0
        self._victims: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._kill_all, name="site-chaos")
        self._thread.start()

    def begins(self, plugin: str) -> None:
        """A call of ``plugin`` is about to begin."""
        with self._lock:
            self._calls += 1
            due = self._calls % self._every == 0
        if due:
            self._victims.put(plugin)

    def close(self) -> None:
        """No kill begins after this; idempotent."""
        self._closing.set()
        self._victims.put(None)
        self._thread.join()

    def _kill_all(self) -> None:
        while (plugin := self._victims.get()) is not None:
            if self._closing.wait(self._random.uniform(0, _LONGEST_DELAY)):
                return
            if self._kill_one(self._handles[plugin]):
                self._told()

    def _kill_one(self, handle: PluginHandle) -> bool:
        alive = [replica.pid for replica in handle.replicas if replica.pid is not None]
        if not alive:
            return False
        pid = self._random.choice(alive)
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            try:
                # Still its process after that: so the descriptor is not another's of the same id.
                if pid in [replica.pid for replica in handle.replicas]:
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    return True
            finally:
                os.close(process)
        return False
