"""Streams: many values where a call has one, at the reader's pace; in both directions.

A flow leads from a producer (`Outflow`) to a reader (`Stream`). The producer may have WINDOW items
and WINDOW_BYTES on their way, and always one; the reader gives credit back for what it has taken.
Flow 0 of a call is its answer (a generator method), flows 1, 2, ... are generators among its
arguments. Whoever waits, for an item or for credit, reads meanwhile (see `_reading`).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from shmhub._errors import (
    CodecError,
    HostGoneError,
    HubClosedError,
    HubTimeoutError,
    PeerGoneError,
    ProtocolViolation,
    ShmhubError,
    WouldBlockError,
)
from shmhub._rpc import _wire as wire
from shmhub._rpc._failure import UNTOLD, CallLost, Failure, describe
from shmhub._rpc._payload import Encoded, Message, decode, encode, private
from shmhub._rpc._reading import Waiter

if TYPE_CHECKING:
    from shmhub._rpc._call import Call
    from shmhub._rpc._link import Link

__all__ = ["Outflow", "Stream", "StreamClosed"]

logger = logging.getLogger("shmhub")

WINDOW = 16  # items on their way or not taken yet
WINDOW_BYTES = 4 << 20  # of them, but for one item that is larger
SEQUENCE = 0xFFFF  # items are numbered in 16 bits
COPY_ON_LOOP = 1 << 20  # bytes: more is copied off the event loop


Ending = BaseException | Callable[[], object] | None
"""How a stream ended; see `Stream.end`."""


class StreamClosed(ShmhubError):
    """The reader of a stream has closed it, or its call is over."""


class Stream(Waiter):
    """The reading end of a stream: an iterator that ends or raises as the other side's does.

    Closing it, leaving `with`, or dropping it tells the producer to stop. One thread at a time.

    Attributes:
        deadline: `time.monotonic()` seconds: nothing is taken after it, unless everything, the end
            included, came in time.
    """

    __slots__ = (
        "__weakref__",
        "_call_id",
        "_codec",
        "_due",
        "_due_bytes",
        "_ended",
        "_error",
        "_expected",
        "_index",
        "_items",
        "_on_ready",
        "call",
        "closed",
        "deadline",
        "link",
        "on_lost",
        "view",
        "what",
    )

    def __init__(
        self, link: Link, call_id: int, index: int, what: str, *, deadline: float | None = None
    ) -> None:
        super().__init__()
        self.link = link
        self.what = what
        self.call: Call | None = None  # a stream of results has one
        self.closed = False
        self.view = False
        self.on_lost: Callable[[CallLost], BaseException] | None = None
        self._on_ready: Callable[[], None] | None = None
        self._call_id = call_id
        self._index = index
        self._codec = link.codec
        self.deadline = deadline
        self._items: deque[Any] = deque()
        self._ended = False
        self._error: Ending = None
        self._expected = 0
        self._due = 0  # taken, and no credit given back yet
        self._due_bytes = 0

    def __repr__(self) -> str:
        state = "closed" if self.closed else "ended" if self._ended else "open"
        return f"<Stream {self.what}, {state}, {len(self._items)} items here>"

    @property
    def on_ready(self) -> Callable[[], None] | None:
        """Called by whoever reads (short) when something new is there, and at once if it is."""
        return self._on_ready

    @on_ready.setter
    def on_ready(self, function: Callable[[], None] | None) -> None:
        self._on_ready = function
        if function is not None and self.done:
            function()

    # ---- the reader of the stream --------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next item.

        Raises:
            StopIteration: it ended.
            HubTimeoutError: its call's deadline passed; it is closed.
            as a call: what the producer raised, CallLost.
        """
        if not self._items and not self._ended and not self.closed:
            self._give_credit()
            self.link.endpoint.wait_for(self, self.deadline)
        try:
            return self.take_nowait()
        except WouldBlockError:
            error = self._no_more_time()
            self.close()
            raise error from None

    def _is_late(self) -> bool:
        if not _passed(self.deadline):
            return False
        # An end that tells of the same: the producer has looked at the clock first.
        return not self._ended or getattr(self._error, "reason", None) == wire.CANCELLED

    def _no_more_time(self) -> BaseException:
        ended = self.link.endpoint.reading.ended
        if ended is not None:
            return CallLost(f"{self.what}: {self.link.name} is gone ({ended})", gone=ended)
        return HubTimeoutError(
            f"{self.what}: no more items before its deadline", outcome="may_have_run"
        )

    def take_nowait(self) -> Any:
        """The next item if there is one here.

        Raises:
            WouldBlockError: not now; credit has been given, `on_ready` will be called.
            otherwise as iteration.
        """
        if self.closed:
            raise StopIteration
        if self._is_late():
            self.close()
            raise self._no_more_time()
        if not self._items:
            return self._take_end()
        frame = self._items.popleft()
        if not self._items and not self._ended:
            self.done = False
            if self._items or self._ended:
                self.done = True
        size = len(frame.data) if type(frame) is Message else len(frame)
        self._due += 1
        self._due_bytes += size
        try:
            value = decode(frame, self._codec, True if self.view else None)
        except CodecError as error:
            self.close()
            raise CodecError(f"an item of {self.what}: {error}") from error
        finally:
            frame.release()
        if self._due >= WINDOW // 2 or self._due_bytes >= WINDOW_BYTES // 2:
            self._give_credit()
        return value

    def _take_end(self) -> Any:
        if not self._ended:
            self._give_credit()
            raise WouldBlockError(f"{self.what}: no item has come")
        error, self._error = self._error, None
        if error is None:
            raise StopIteration
        if not isinstance(error, BaseException):
            error = _raised_by(error)
        if isinstance(error, CallLost) and self.on_lost is not None:
            error = self.on_lost(error)
        try:
            raise error
        finally:
            del self, error  # see Call.result

    def _give_credit(self) -> None:
        due, self._due, self._due_bytes = self._due, 0, 0
        if due and not self._ended and not self.closed:
            self._tell(due)

    def _tell(self, credit: int) -> None:
        self.link.tell_flow(wire.CREDIT, self._call_id, self._index, number=credit)

    def close(self) -> None:
        """Take no more; the producer is told. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self.done = True
        self.link.inflows.pop((self._call_id, self._index), None)
        if self.call is not None:
            self.call.cancel()
        elif not self._ended:
            self._tell(wire.STOP)
        self._drop()

    def _drop(self) -> None:
        while self._items:
            self._items.popleft().release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # A collector runs this in any thread, which may hold any lock.
        if not self.closed and not self._ended:
            self.closed = True
            self.link.endpoint.reading.soon(_Closing(self))

    # ---- whoever reads the transport -----------------------------------------------------------

    def put(self, frame: Any) -> None:
        """ITEM has come."""
        ahead = (frame.method - self._expected) & SEQUENCE
        if ahead > SEQUENCE // 2 or self.closed:
            return  # dealt with before, or nobody wants it
        if ahead:
            self._broken("an item was lost on its way")
            return
        if len(self._items) >= WINDOW:
            # What it floods with must end somewhere.
            self._broken(f"more than {WINDOW} items came that nobody had asked for yet")
            return
        if frame.crowded:
            frame = private(frame)
        self._expected = (self._expected + 1) & SEQUENCE
        self._items.append(frame)
        self._more()

    def _broken(self, why: str) -> None:
        if not self._ended:
            text = f"{self.what}: {why}"
            logger.error("%s", text)
            self.end(ProtocolViolation(text))
            self.link.tell_flow(wire.CREDIT, self._call_id, self._index, number=wire.STOP)

    def end(self, error: Ending, count: int = 0) -> None:
        """No more will come.

        Args:
            error: None: it ended well. A function: what it raises, once somebody asks; for what is
                to be unpickled, which whoever reads must not do.
            count: if it ended well, how many were sent, in 16 bits.
        """
        if self._ended:
            return
        if error is None and count != self._expected and not self.closed:
            self._broken("the last items were lost on their way")
            return
        self._error = error
        self._ended = True
        self.link.inflows.pop((self._call_id, self._index), None)
        self._more()

    def _more(self) -> None:
        self.done = True
        self.wake()
        if self._on_ready is not None:
            self._on_ready()


class _Closing:
    """What closes a stream that was dropped, without keeping it."""

    def __init__(self, stream: Stream) -> None:
        self._link, self._call = stream.link, stream.call
        self._key = (stream._call_id, stream._index)

    def __call__(self) -> None:
        self._link.inflows.pop(self._key, None)
        if self._call is not None:
            self._call.cancel()
        else:
            self._link.tell_flow(wire.CREDIT, *self._key, number=wire.STOP)


class Outflow(Waiter):
    """The producing end: counts what is on its way. One thread or task at a time."""

    __slots__ = (
        "_guard",
        "_sizes",
        "_under_way",
        "call_id",
        "index",
        "link",
        "sequence",
        "stopped",
    )

    def __init__(self, link: Link, call_id: int, index: int) -> None:
        super().__init__()
        self.done = True  # there is room for an item
        self.link = link
        self.stopped = False  # the reader wants no more, or is gone
        self.call_id = call_id
        self.index = index
        self.sequence = 0  # number of the next item: as many as were sent, in 16 bits
        self._guard = threading.Lock()
        self._sizes: deque[int] = deque()  # of the items on their way
        self._under_way = 0
        link.outflows[call_id, index] = self

    def has_room(self, size: int) -> bool:
        """May an item of that size be sent now? If not, wait until `done`."""
        if self._fits(size):
            return True
        self.done = False
        if self._fits(size):
            self.done = True
            return True
        return False

    def _fits(self, size: int) -> bool:
        count = len(self._sizes)
        return (
            self.stopped
            or count == 0
            or (count < WINDOW and self._under_way + size <= WINDOW_BYTES)
        )

    def credit(self, count: int) -> None:
        """CREDIT has come; STOP: nobody wants more."""
        with self._guard:
            if count == wire.STOP:
                self.stopped = True
            for _ in range(min(count, len(self._sizes))):
                self._under_way -= self._sizes.popleft()
        self.done = True
        self.wake()

    def send(self, encoded: Encoded, *, wait: bool = True) -> None:
        """One item that has room.

        Raises:
            WouldBlockError: `wait` is False, and there is no room in the ring or no slot.
            StreamClosed: nobody wants it.
        """
        if self.stopped or self.link.closed:
            raise StreamClosed("the reader has closed the stream")
        with self._guard:
            self._sizes.append(encoded.size)
            self._under_way += encoded.size
        try:
            self.link.send_flow(
                wire.ITEM, self.call_id, self.index, encoded, number=self.sequence, wait=wait
            )
        except BaseException:
            with self._guard:
                self._under_way -= self._sizes.pop()
            raise
        self.sequence = (self.sequence + 1) & SEQUENCE

    def close(self) -> None:
        """Nobody produces any more."""
        self.link.outflows.pop((self.call_id, self.index), None)


# ---- producing -----------------------------------------------------------------------------------


def produce(
    flow: Outflow,
    items: Iterator[Any],
    cancelled: Callable[[], bool],
    deadline: float | None = None,
) -> None:
    """Send what an iterator gives until it ends, raises, or nobody wants more.

    Args:
        deadline: `time.monotonic()` seconds: nobody wants more then.

    Raises:
        what the iterator raises; StreamClosed: nobody wants more; the iterator was closed then.
    """
    link = flow.link
    try:
        for item in items:
            encoded = encode(item, link.codec)
            del item
            while not flow.has_room(encoded.size):
                link.endpoint.wait_for(flow, deadline)
                if link.closed or link.endpoint.reading.ended is not None or _passed(deadline):
                    break
            if cancelled() or _passed(deadline):
                raise StreamClosed("the reader does not want any more")
            flow.send(encoded)
            del encoded
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def _passed(deadline: float | None) -> bool:
    return deadline is not None and monotonic() >= deadline


async def produce_async(
    flow: Outflow,
    items: AsyncIterator[Any],
    cancelled: Callable[[], bool],
    deadline: float | None = None,
) -> None:
    """The same for an asynchronous one, on its event loop; large copies are made off the loop."""
    import asyncio  # most plugins never need it

    link = flow.link
    loop = asyncio.get_running_loop()
    room = asyncio.Event()

    class Bell:
        def release(self) -> None:
            loop.call_soon_threadsafe(room.set)

    flow.lock = Bell()
    try:
        async for item in items:
            encoded = encode(item, link.codec)
            del item
            while not flow.has_room(encoded.size):
                room.clear()
                if not flow.done:
                    left = None if deadline is None else deadline - monotonic()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(room.wait(), left)
                if link.closed or _passed(deadline):
                    break
            if cancelled() or _passed(deadline):
                raise StreamClosed("the reader does not want any more")
            try:
                if encoded.size > COPY_ON_LOOP:
                    raise WouldBlockError("a large copy")
                flow.send(encoded, wait=False)
            except WouldBlockError:
                await asyncio.to_thread(flow.send, encoded)
            del encoded
    finally:
        flow.lock = None
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


def _raised_by(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("an error that was announced was none")


def end_of(flow_link: Link, frame: Any, what: str) -> Ending:
    """How an upload ended, from its END: None: well."""
    if not frame.flags & wire.STREAM:
        return None
    try:
        failure = Failure(decode(frame, flow_link.plain))
    except CodecError as error:
        return error
    if flow_link.unpickles and failure.pickled is not None:
        return partial(_raise, failure, what)
    return failure.exception(what, unpickle=False)


def _raise(failure: Failure, what: str) -> None:
    raise failure.exception(what, unpickle=True)


def upload(flow: Outflow, items: Iterator[Any]) -> None:
    """Produce a generator that was among the arguments of a call, in this thread."""
    error: BaseException | None = None
    try:
        produce(flow, items, lambda: flow.stopped)
    except StreamClosed:
        return
    except BaseException as raised:
        error = raised
    finally:
        flow.close()
    _send_end(flow, error)


async def upload_async(flow: Outflow, items: AsyncIterator[Any]) -> None:
    """The same on the event loop."""
    import asyncio  # most plugins never need it

    error: BaseException | None = None
    try:
        await produce_async(flow, items, lambda: flow.stopped)
    except StreamClosed:
        return
    except BaseException as raised:
        error = raised
    finally:
        flow.close()
    await asyncio.to_thread(_send_end, flow, error)


def _send_end(flow: Outflow, error: BaseException | None) -> None:
    """Tell the reader how it ended."""
    link = flow.link
    if error is None:
        encoded, flags = encode(None, link.plain), 0
    else:
        flags = wire.STREAM
        try:
            encoded = encode(describe(error, pickled=link.unpickles), link.plain)
        except BaseException:  # the application's, once more: the reader waits for an end
            encoded = encode(UNTOLD, link.plain)
    with suppress(PeerGoneError, HostGoneError, HubClosedError):
        link.send_flow(
            wire.END, flow.call_id, flow.index, encoded, number=flow.sequence, flags=flags
        )
