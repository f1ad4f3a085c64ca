"""The thread of a group that sends the calls that had to wait. Knows nothing of replicas."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from shmhub.plugin._quiet import Quiet

__all__ = ["Sender"]

logger = logging.getLogger("shmhub.plugin")


class Sender:
    """Started when it is first needed. Safe from several threads, with the group's lock held.

    Args:
        send_next: sends one more call; False: none can go now.
    """

    def __init__(self, name: str, send_next: Callable[[Quiet], bool]) -> None:
        self._name = name
        self._send_next = send_next
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.ended = False

    def start(self) -> None:
        """See that there is a thread; it looks once it is woken."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Let it look: there may be a call, or room for one."""
        if self._wake.empty():  # else it has not looked since
            self._wake.put(None)

    def end(self) -> None:
        """It sends nothing more."""
        self.ended = True
        self.wake()

    def join(self, timeout: float) -> None:
        """Wait for the thread after `end`; without the lock."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self.ended:
            self._wake.get()
            quiet = Quiet()
            try:
                while self._send_next(quiet):
                    pass
            except BaseException:
                # An argument that raises SystemExit when it is pickled ends its own call, not this.
                logger.exception("a call that waited could not be sent, in %s", self._name)
                self.wake()  # for those behind it
            finally:
                quiet.end()
