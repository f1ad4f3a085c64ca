"""Who reads: whoever waits, one at a time, for all.

The thread that waits for an answer receives itself while it has the turn (`_core.Turn`), and hands
over what is others': an answer costs no change of threads. Who cannot have the turn sleeps on a
lock of its own, which is released when what it waits for is there or when the turn is free. When
nobody waits there is the lookout, a thread that reads what comes unasked.

What has been received and not been dealt with is in `inbox`, which only who has the turn looks at.
A message is taken out after it was dealt with: a signal handler that raises in between makes the
next one deal with it again, so dispatching has to bear that.

Nobody sleeps in vain:

* A waiter announces its lock (`waiter.lock`), joins the queue, then looks at its `done` again;
  who completes sets `done`, then looks for a lock. So one of them sees the other.
* `Turn` frees and wakes in one step, and joining a free turn is refused.
* A waiter that was woken for the turn and leaves without taking it calls `turn.leave`, which
  wakes the next one.
* The lookout sleeps without an end only when it stands by, and whoever leaves the turn while
  nobody queues wakes it. Otherwise it looks again after GRACE: it takes no part in a streak of
  calls, and an idle hub costs nothing.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from shmhub._errors import HostGoneError, HubClosedError, HubForkedError, ProtocolViolation
from shmhub._native import core

__all__ = ["Reading", "Waiter"]

logger = logging.getLogger("shmhub")

GRACE = 0.005  # seconds without a reader, in a streak, before the lookout takes over
BATCH = 32  # messages received at once by who reads for others
NEVER = 0xFFFF  # a channel that no message has
ENDS = (HubClosedError, HostGoneError, HubForkedError)


class _Local(threading.local):
    """The locks that this thread sleeps on: one, and one more where a signal handler sleeps."""

    def __init__(self) -> None:
        self.locks: list[threading.Lock] = []

    def take(self) -> threading.Lock:
        if self.locks:
            return self.locks.pop()
        lock = threading.Lock()
        lock.acquire()
        return lock


_local = _Local()


class Waiter:
    """Something to wait for: done, or (`tasks`) to be done here first.

    Set `done` before calling `wake`.
    """

    __slots__ = ("done", "lock", "message_id", "tasks")

    def __init__(self, message_id: int | None = None) -> None:
        self.done = False
        self.lock: Any = None
        self.message_id = message_id
        self.tasks: deque[Any] | None = None  # messages to be executed by who waits

    def wake(self) -> None:
        """Whoever waits for it looks again."""
        lock = self.lock
        if lock is not None:
            with suppress(RuntimeError):  # it was told already
                lock.release()


class Reading:
    """The receiving end of a transport, shared by all threads that wait for something of it.

    Args:
        transport: stays the caller's.
        dispatch: called with each Frame or PeerGoneError by whoever reads; short, never raises,
            bears being called twice with the same.
        on_end: called once with what ended it all.
    """

    def __init__(
        self,
        transport: Any,
        dispatch: Callable[[Any], None],
        on_end: Callable[[BaseException], None],
        *,
        name: str,
    ) -> None:
        self.turn = core.Turn()
        self.inbox: list[Any] = []
        self.ended: BaseException | None = None
        self.collect = transport.collect
        self._collect_all = transport.collect_all
        self._dispatch = dispatch
        self._on_end = on_end
        self._end_lock = threading.Lock()
        self.turns = 0  # how often `wait` has read
        self._soon: deque[Callable[[], None]] = deque()
        self._interrupt = transport.interrupt
        self.on_violation: Callable[[], object] = lambda: None  # a message was lost to one
        self.unattended: set[int] = set()  # calls that nobody waits for: the lookout reads on
        self._park = threading.Lock()
        self._park.acquire()
        self._lookout = threading.Thread(target=self._look_out, name=name, daemon=True)

    # ---- waiting -------------------------------------------------------------------------------

    def wait(self, waiter: Waiter, deadline: float | None, channel: int = NEVER) -> Any:
        """Until the waiter is done or has tasks, or the deadline; reading meanwhile.

        Returns:
            a frame of that channel and the waiter's message id, which was received here and that
            nobody else has seen; or None.
        """
        turn = self.turn
        message_id = waiter.message_id
        while not (waiter.done or waiter.tasks):
            if self.ended is not None:
                return None
            with turn as mine:
                if mine:
                    self.turns += 1
                    frame = self._read(waiter, message_id, channel, deadline)
                    if frame is not None:
                        return frame
            if not mine:
                self._sleep(waiter, deadline)
            elif turn.mine:
                # Ours still, when this runs in a signal handler: whoever receives below it must
                # look again, for we may have dealt with what it waits for.
                self._interrupt()
            if deadline is not None and monotonic() >= deadline:
                return None
        return None

    def _read(
        self, waiter: Waiter, message_id: int | None, channel: int, deadline: float | None
    ) -> Any:
        """With the turn."""
        timeout = None
        while True:
            if self.inbox:
                self.drain()
            if waiter.done or waiter.tasks or self.ended is not None:
                return None
            if deadline is not None:
                timeout = deadline - monotonic()
                if timeout <= 0:
                    return None
            try:
                frame = self.collect(self.inbox, channel, message_id, timeout)
            except (*ENDS, ProtocolViolation) as error:
                trace = error.__traceback__
                if trace is not None and trace.tb_next is not None:
                    raise  # a signal handler's, about some other hub
                self.failed(error)
                continue
            if frame is not None:
                return frame

    def _sleep(self, waiter: Waiter, deadline: float | None) -> None:
        """Somebody else reads."""
        lock = _local.take()
        lock.acquire(False)  # a wake-up that came too late last time
        waiter.lock = lock
        try:
            if not self.turn.join(lock):
                return
            if waiter.done or waiter.tasks or self.ended is not None:
                return
            if deadline is None:
                lock.acquire()
            else:
                lock.acquire(True, max(0.0, min(deadline - monotonic(), threading.TIMEOUT_MAX)))
        finally:
            waiter.lock = None
            self.turn.leave(lock)
            _local.locks.append(lock)

    def drain(self) -> None:
        """Deal with what was received; with the turn."""
        inbox = self.inbox
        while inbox:
            item = inbox[0]
            try:
                self._dispatch(item)
            except Exception:
                logger.exception("dealing with %r", item)
            if inbox and inbox[0] is item:
                del inbox[0]

    def end(self, error: BaseException) -> None:
        """Nothing will come any more."""
        with self._end_lock:
            if self.ended is not None:
                return
            self.ended = error
        self._on_end(error)
        self.kick()

    def failed(self, error: BaseException) -> None:
        """What a receive has raised, if it is about the transport; anything else is raised."""
        if isinstance(error, ENDS):
            self.end(error)
        elif isinstance(error, ProtocolViolation):  # of one peer; the others go on
            logger.error("%s", error)
            self.on_violation()
        else:
            raise error

    # ---- the lookout ---------------------------------------------------------------------------

    def start(self) -> None:
        """Let the lookout begin."""
        self._lookout.start()

    def attend(self) -> None:
        """Something is expected that nobody waits for: see that somebody reads."""
        if not self.turn.stand_by(self._park):
            self.kick()

    def kick(self) -> None:
        """Let the lookout look."""
        with suppress(RuntimeError):
            self._park.release()

    def look_again(self) -> None:
        """Let who reads look whether what it waits for is done."""
        self._interrupt()

    def soon(self, function: Callable[[], None]) -> None:
        """Let the lookout do that; from any thread, a finalizer, too."""
        self._soon.append(function)
        self.kick()
        self._interrupt()

    def _do_soon(self) -> None:
        while self._soon:
            function = self._soon.popleft()
            try:
                function()
            except Exception:
                logger.exception("%s", self._lookout.name)

    def join(self, timeout: float | None) -> None:
        """Wait for the lookout to end, after `end`."""
        if self._lookout.is_alive() and threading.current_thread() is not self._lookout:
            self.kick()
            self._lookout.join(timeout)

    def _look_out(self) -> None:
        seen = (-1, 0)
        while self.ended is None:
            self._do_soon()
            if self._read_count() != seen and not self.unattended:
                seen = self._read_count()
                self._park.acquire(True, GRACE)
                continue
            with self.turn as mine:
                if mine:
                    self._read_for_others()
            if mine:
                # Somebody queued, and was woken just now: let it have the turn.
                self._park.acquire(True, GRACE)
            else:
                seen = self._read_count()
                if self.turn.stand_by(self._park) and self.ended is None:
                    self._park.acquire()

    def _read_count(self) -> tuple[int, int]:
        """Changes when anybody but the lookout reads."""
        return self.turns, self.turn.streak

    def _read_for_others(self) -> None:
        """Until one of them would rather read itself."""
        while self.ended is None:
            self._do_soon()
            if self.inbox:
                self.drain()
            if self.turn.waiting and not self.unattended:
                return
            try:
                self._collect_all(self.inbox, BATCH, None)
            except (*ENDS, ProtocolViolation) as error:
                self.failed(error)
            except Exception as error:
                logger.exception("%s cannot receive any more", self._lookout.name)
                self.end(error)
