"""Waiting in an event loop: one reader of a transport's descriptor serves all its tasks.

Unaware of what is sent and received. Three parts:

* `Readiness` has the descriptor watched while anybody waits;
* `FrameQueue` hands frames to those who wait for one, in the reader's callback, so that a frame
  costs one turn of the loop; what a cancelled task did not take goes to the next;
* `RetryQueue` wakes the task at the head of each lane to try again itself, so that a task that was
  cancelled has done nothing.

Everything runs in the loop's thread; nothing here is safe from others.
"""

from __future__ import annotations

import asyncio
import math
import operator
import sys
from bisect import insort
from collections import deque
from collections.abc import Callable, Hashable
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from shmhub._errors import HubClosedError, HubTimeoutError

if TYPE_CHECKING:
    from shmhub._native import core

__all__ = ["FrameQueue", "Readiness", "RetryQueue", "check_max", "check_timeout"]

Result = TypeVar("Result")
Loop = asyncio.AbstractEventLoop


def check_timeout(timeout: float) -> float:
    """As a float, of the same range as the synchronous transports have, which check in the core.

    Any real number is one (Decimal, Fraction), but the event loop's timers add floats only.
    """
    try:
        # float() would take a str as well.
        seconds = math.nan if math.isnan(timeout) else float(timeout)
    except TypeError:
        message = f"timeout must be None or a number of seconds, not {type(timeout).__name__}"
        raise TypeError(message) from None
    except OverflowError:
        raise ValueError("timeout is beyond any number of seconds") from None
    if math.isnan(seconds):
        raise ValueError("timeout must be None or a number of seconds, not NaN")
    if seconds < 0:
        raise ValueError(f"timeout must be None or >= 0 seconds, not {timeout!r}")
    return seconds


def check_max(max: int) -> int:
    """As the core does, but before the first frame is taken: it would be lost."""
    try:
        number = operator.index(max)
    except TypeError:
        raise TypeError(f"max must be an int, not {type(max).__name__}") from None
    if not 0 <= number <= sys.maxsize:
        raise ValueError(f"max must be from 0 to {sys.maxsize}, not {max!r}")
    if number == 0:
        raise ValueError("max must be at least 1, not 0")
    return number


class Readiness:
    """The descriptor in the loop of whoever waited first.

    Args:
        fileno: the descriptor; readable means that it is worth another try.
        serve: called when it is; says whether anybody still waits.
    """

    def __init__(self, fileno: Callable[[], int], serve: Callable[[], bool]) -> None:
        self._fileno = fileno
        self._serve = serve
        self._loop: Loop | None = None
        self._fd = -1
        # Called when the loop turns out to be closed: its tasks will never run again.
        self.on_loop_closed: list[Callable[[], None]] = []

    def leave_closed_loop(self) -> None:
        """Forget who waited in a loop that was closed; before they are counted or woken."""
        if self._loop is not None and self._loop.is_closed():
            self._loop = None
            self._fd = -1  # a closed loop has let go of it
            for forget in self.on_loop_closed:
                forget()

    def watch(self) -> Loop:
        """See to it that `serve` is called; to be called before each suspension."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.leave_closed_loop()
            if self._loop is not None:
                raise RuntimeError(
                    "this transport is used in another event loop, which is not closed yet"
                )
            self._loop = loop
        if self._fd < 0:
            fd = self._fileno()
            loop.add_reader(fd, self._on_readable)
            self._fd = fd
        return loop

    def _on_readable(self) -> None:
        # Left in place while it is of use: taking it out and putting it back are two system calls
        # a message. With nobody waiting it would fire for ever.
        if not self._serve():
            self.forget()

    def forget(self) -> None:
        """Stop watching; before the descriptor is closed."""
        self.leave_closed_loop()
        if self._fd >= 0 and self._loop is not None:
            self._loop.remove_reader(self._fd)
            self._fd = -1


class FrameQueue:
    """Tasks that wait for a frame, first come, first served.

    Args:
        poll: a frame, or None: then the descriptor will become readable.
        readiness: of that descriptor.
        who: the transport, for messages.
    """

    def __init__(
        self, poll: Callable[[], core.Frame | None], readiness: Readiness, who: str
    ) -> None:
        self._poll = poll
        self._readiness = readiness
        self._who = who
        self._waiting: deque[asyncio.Future[None]] = deque()
        # Frames and told-once errors, each with its number in the order in which they came:
        self._count = 0
        # those of tasks that have been woken and have not run yet,
        self._handed: dict[asyncio.Future[None], tuple[int, core.Frame | BaseException]] = {}
        # and those of tasks that were cancelled then, in order.
        self._returned: list[tuple[int, core.Frame | BaseException]] = []
        readiness.on_loop_closed.append(self._forget_waiters)

    def _forget_waiters(self) -> None:
        """Their loop was closed; what they were handed is for the next."""
        self._waiting.clear()
        for handed in self._handed.values():
            self._return(*handed)
        self._handed.clear()

    def take_returned(self) -> core.Frame | None:
        """What a cancelled task did not take, if there is anything."""
        if self._handed:
            self._readiness.leave_closed_loop()
        if not self._returned:
            return None
        return self._given(self._returned.pop(0)[1])

    def take_returned_frames(self, max: int) -> tuple[list[core.Frame], bool]:
        """Of these the frames before the first error; is nothing left then?"""
        frames: list[core.Frame] = []
        for _, item in self._returned[:max]:
            if isinstance(item, BaseException):
                break
            frames.append(item)
        del self._returned[: len(frames)]
        return frames, not self._returned

    def put_back(self, *items: core.Frame | BaseException) -> None:
        """Let the next receives have them, before all else that was put back."""
        self._returned[:0] = [(0, item) for item in items]
        self.serve()

    def put_last(self, error: BaseException) -> None:
        """Let a receive have that error, which has just come."""
        self._return(self._number(), error)
        self.serve()

    def _number(self) -> int:
        self._count += 1
        return self._count

    def _return(self, number: int, item: core.Frame | BaseException) -> None:
        insort(self._returned, (number, item), key=itemgetter(0))

    @staticmethod
    def _given(item: core.Frame | BaseException) -> core.Frame:
        if isinstance(item, BaseException):
            raise item
        return item

    def take(self) -> core.Frame | None:
        """A frame at once, unless others wait for one already."""
        if self._waiting or self._handed:
            self._readiness.leave_closed_loop()
        if self._returned:
            return self.take_returned()
        return None if self._waiting else self._poll()

    async def wait(self, timeout: float | None) -> core.Frame:
        """Wait for a frame; to be called after `take` gave none."""
        if timeout is not None and timeout == 0:
            raise self._timeout_error(timeout)
        loop = self._readiness.watch()
        future: asyncio.Future[None] = loop.create_future()
        timer = None if timeout is None else loop.call_later(timeout, self._expire, future, timeout)
        self._waiting.append(future)  # last: what fails before must not leave it there
        try:
            await future
        except BaseException:  # cancelled, or dropped with its loop: GeneratorExit
            self._take_back(future)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if not future.done() or future.cancelled():
                self._discard(future)
        # An error is raised here and not set on the future, which does not take StopIteration.
        return self._given(self._handed.pop(future)[1])

    def _discard(self, future: asyncio.Future[None]) -> None:
        if future in self._waiting:
            self._waiting.remove(future)

    def _take_back(self, future: asyncio.Future[None]) -> None:
        """The task was ended after it was handed something and before it ran."""
        handed = self._handed.pop(future, None)
        if handed is not None:
            # In the place that it had: others may be cancelled in the same turn of the loop.
            self._return(*handed)
            self.serve()

    def _expire(self, future: asyncio.Future[None], timeout: float) -> None:
        self.serve()  # the last try
        if not future.done():
            self._discard(future)
            future.set_exception(self._timeout_error(timeout))

    def _timeout_error(self, timeout: float) -> HubTimeoutError:
        return HubTimeoutError(f"recv on {self._who}: nothing came within {timeout:g} s")

    def _next(self) -> tuple[int, core.Frame | BaseException] | None:
        """What comes next, and its number."""
        if self._returned:
            return self._returned.pop(0)
        item: core.Frame | BaseException | None
        try:
            item = self._poll()
        except BaseException as error:
            item = error
        return None if item is None else (self._number(), item)

    def serve(self) -> bool:
        """Hand out what there is; says whether anybody still waits."""
        if self._waiting:
            self._readiness.leave_closed_loop()
        while self._waiting:
            head = self._waiting[0]
            if head.done():  # cancelled, and its task has not run yet
                self._waiting.popleft()
                continue
            item = self._next()
            if item is None:
                return True
            # Polling may have called back into the application, which may have closed us.
            if head.done():
                self._return(*item)
                continue
            self._waiting.popleft()
            self._handed[head] = item
            head.set_result(None)
        return False

    def close(self, error: HubClosedError) -> None:
        """Everyone who waits gets that error; what was put back is dropped."""
        self._readiness.leave_closed_loop()
        self._returned.clear()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)


class _Ticket:
    """One task's place in a lane."""

    __slots__ = ("expired", "future")

    def __init__(self) -> None:
        self.future: asyncio.Future[None] | None = None
        self.expired = False

    def wake(self) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def expire(self) -> None:
        self.expired = True
        self.wake()


class RetryQueue:
    """Tasks that try something again when the descriptor says so, first come, first served.

    There is a lane for each key: what waits for one peer's ring does not hold up another's.

    Args:
        readiness: of the descriptor.
        disarm: forget the waiter that unsuccessful tries have armed in the core.
    """

    def __init__(self, readiness: Readiness, disarm: Callable[[], None]) -> None:
        self._readiness = readiness
        self._disarm = disarm
        self._lanes: dict[Hashable, deque[_Ticket]] = {}
        readiness.on_loop_closed.append(self._forget_waiters)

    def _forget_waiters(self) -> None:
        """Their loop was closed."""
        if self._lanes:
            self._lanes.clear()
            self._disarm()

    def busy(self, key: Hashable) -> bool:
        """Does anybody wait in that lane?"""
        if self._lanes:
            self._readiness.leave_closed_loop()
        return key in self._lanes

    async def wait(
        self,
        key: Hashable,
        attempt: Callable[[], Result | None],
        timeout: float | None,
        tried: str,
    ) -> Result:
        """Call `attempt` until it gives something, each time in this task and in its turn."""
        self._readiness.leave_closed_loop()
        lane = self._lanes.setdefault(key, deque())
        ticket = _Ticket()
        lane.append(ticket)
        timer: asyncio.TimerHandle | None = None
        done = False
        try:
            if timeout is not None and timeout > 0:
                timer = asyncio.get_running_loop().call_later(timeout, ticket.expire)
            while True:
                if lane[0] is ticket:
                    result = attempt()
                    if result is not None:
                        done = True
                        return result
                if ticket.expired or timeout == 0:
                    raise HubTimeoutError(f"{tried}: no room within {timeout:g} s")
                ticket.future = self._readiness.watch().create_future()
                await ticket.future
        finally:
            if timer is not None:
                timer.cancel()
            self._leave(key, lane, ticket, done)

    def _leave(self, key: Hashable, lane: deque[_Ticket], ticket: _Ticket, done: bool) -> None:
        self._readiness.leave_closed_loop()
        lane.remove(ticket)
        if self._lanes.get(key) is not lane:
            return  # it was forgotten with its loop
        if not lane:
            del self._lanes[key]
        elif done:
            lane[0].wake()
        if not done:
            # What this one armed may have been what the others rely on: they look again.
            if self._lanes:
                self.serve()
            else:
                self._disarm()

    def serve(self) -> bool:
        """Let the head of each lane try; says whether anybody waits."""
        if self._lanes:
            self._readiness.leave_closed_loop()
        for lane in self._lanes.values():
            lane[0].wake()
        return bool(self._lanes)

    def close(self, error: HubClosedError) -> None:
        """Everyone who waits gets that error."""
        self._readiness.leave_closed_loop()
        for lane in self._lanes.values():
            for ticket in lane:
                future: asyncio.Future[Any] | None = ticket.future
                if future is not None and not future.done():
                    future.set_exception(error)
