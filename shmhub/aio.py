"""The transports for asyncio: the same names and meaning as the synchronous ones, with `await`.

::

    async with shmhub.aio.HubPeerTransport.from_argv() as host:
        async for frame in host:
            await host.send(frame, **frame.reply_to())

Nothing here blocks the event loop, and nothing polls: an operation that can be done at once is
done without a suspension, any other waits for the transport's descriptor.

Cancellation and timeouts: a cancelled receive loses no frame, the next one gets it. A cancelled
send has published nothing, its slot is still the caller's (`send_many` may have sent a beginning;
the exception's `.sent` says how many). Several tasks may use one transport: each kind of operation
is served first come, first served; sends to different peers do not wait for each other.

A transport belongs to the event loop that first waited on it, until that is closed; use it from
that loop's thread.
"""

from __future__ import annotations

import asyncio
import operator
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from shmhub import _transport as sync
from shmhub._aio_waiting import FrameQueue, Readiness, RetryQueue, check_max, check_timeout
from shmhub._errors import (
    HostGoneError,
    HubClosedError,
    PeerGoneError,
    RingFullError,
    SlotsExhaustedError,
    WouldBlockError,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer, Unpack

    from shmhub._host import HubHost
    from shmhub._native import core
    from shmhub._peer import HubPeer
    from shmhub._protocols import AsyncTransport, Labels, ManyLabels
    from shmhub._statistics import TransportStatistics

if TYPE_CHECKING:
    from shmhub.plugin._aio import PluginHost as PluginHost

__all__ = ["HubHostPeerTransport", "HubHostTransport", "HubPeerTransport", "PluginHost"]

# After so many operations without a suspension the loop gets a turn, or one busy conversation
# would keep every other task (and every timer) from running.
UNINTERRUPTED_MAX = 128

# The lane of what no peer can be: nobody ever waits there, for the core refuses it at once.
REFUSED = -1


SyncTransport = sync.HubHostPeerTransport | sync.HubHostTransport | sync.HubPeerTransport


def _nothing_to_check() -> None:
    pass


class _AsyncTransport:
    """What all three share, over the synchronous transport that does the work."""

    def __init__(self, transport: SyncTransport) -> None:
        self._sync = transport
        self._uninterrupted = 0
        self._poll_send = transport.poll_send
        self._readiness = Readiness(transport.fileno, self._serve)
        self._frames = FrameQueue(transport.poll_recv, self._readiness, repr(transport.name))
        self._sends = RetryQueue(self._readiness, lambda: self._disarm("send"))
        self._allocs = RetryQueue(self._readiness, lambda: self._disarm("alloc"))

    @property
    def name(self) -> str:
        return self._sync.name

    @property
    def peer_id(self) -> int | None:
        """Of the peer at the other end; None: all of them."""
        return self._sync.peer_id

    @property
    def closed(self) -> bool:
        return self._sync.closed

    def fileno(self) -> int:
        return self._sync.fileno()

    def statistics(self) -> TransportStatistics:
        """What this transport has done since it was made."""
        return self._sync.statistics()

    # ---- never waiting ------------------------------------------------------------------------

    def alloc_nowait(self, nbytes: int) -> core.Slot:
        """A slot for `nbytes`, or SlotsExhaustedError."""
        return self._sync.alloc_nowait(nbytes)

    def send_nowait(self, payload: Buffer = b"", /, **labels: Unpack[Labels]) -> int:
        """Send, or raise RingFullError or SlotsExhaustedError."""
        return self._sync.send_nowait(payload, **labels)

    def send_many_nowait(
        self, payloads: Iterable[Buffer], /, **labels: Unpack[ManyLabels]
    ) -> list[int]:
        """Send as many as there is room for; an error's `.sent` says how many went."""
        return self._sync.send_many_nowait(payloads, **labels)

    def recv_nowait(self) -> core.Frame:
        """A frame, or WouldBlockError."""
        frame = self._frames.take_returned()
        if frame is not None:
            return frame
        try:
            return self._sync.recv_nowait()
        except WouldBlockError:
            self._look()
            raise

    def recv_many_nowait(self, max: int) -> list[core.Frame]:
        """Up to `max` frames, or WouldBlockError."""
        max = check_max(max)
        first = self._frames.take_returned()
        if first is not None:
            return self._and_more(first, max)
        try:
            return self._sync.recv_many_nowait(max)
        except WouldBlockError:
            self._look()
            raise

    # ---- waiting ------------------------------------------------------------------------------

    async def alloc(self, nbytes: int, *, timeout: float | None = None) -> core.Slot:
        """A slot for `nbytes`; waits for one.

        Raises:
            HubTimeoutError, PayloadTooLargeError, HubClosedError, Host/PeerGoneError
        """
        self._uninterrupted += 1
        if self._uninterrupted > UNINTERRUPTED_MAX:
            await self._give_way()
        if timeout is not None:
            timeout = check_timeout(timeout)
        if not self._allocs.busy(None):
            slot = self._sync.poll_alloc(nbytes)
            if slot is not None:
                return slot
        return await self._allocs.wait(
            None,
            lambda: self._sync.poll_alloc(nbytes),
            timeout,
            f"alloc of {nbytes} bytes on {self.name!r}",
        )

    async def send(
        self,
        payload: Buffer = b"",
        /,
        *,
        timeout: float | None = None,
        **labels: Unpack[Labels],
    ) -> int:
        """Send; waits for room in the ring and for a slot. If it raises, nothing was published.

        Args:
            payload: any C-contiguous buffer; a Slot is moved, a Frame is passed on.
            timeout: seconds; None: for ever.
            labels: `to`, `channel`, `method`, `flags`, `message_id`, `deadline`.

        Returns:
            the message's id.

        Raises:
            HubTimeoutError, PayloadTooLargeError, HubClosedError, Host/PeerGoneError
        """
        to = labels.get("to")
        self._uninterrupted += 1
        if self._uninterrupted > UNINTERRUPTED_MAX:
            check_life = self._life_of(to)
            await self._give_way()
            check_life()
        if timeout is not None:
            timeout = check_timeout(timeout)
        lane = self._lane(to)
        if not self._sends.busy(lane):
            sent = self._poll_send(payload, **labels)
            if sent is not None:
                return sent
        attempt = partial(self._poll_send, payload, **labels)
        return await self._send_in_turn(lane, attempt, timeout, self._life_of(to))

    async def _send_in_turn(
        self,
        lane: int | None,
        attempt: Callable[[], int | None],
        timeout: float | None,
        check_life: Callable[[], None],
    ) -> int:
        def attempt_in_that_life() -> int | None:
            check_life()
            return attempt()

        return await self._sends.wait(lane, attempt_in_that_life, timeout, f"send on {self.name!r}")

    def _lane(self, to: int | None) -> int | None:
        """Where a send waits: one line for each ring, however it is named."""
        return None if to is None or to == self.peer_id else REFUSED

    def _life_of(self, to: int | None) -> Callable[[], None]:
        """To be called after each suspension: raises when it would go to the id's next owner.

        Bound to one peer, the transport is bound to one life of its id, too.
        """
        return _nothing_to_check

    async def send_many(
        self,
        payloads: Iterable[Buffer],
        /,
        *,
        timeout: float | None = None,
        **labels: Unpack[ManyLabels],
    ) -> list[int]:
        """Send several in order; the timeout covers all of them.

        As many as there is room for go at once; while it waits for more, others may send.

        Raises:
            as `send`; the error's `.sent` says how many went. So does that of a CancelledError.
        """
        end = None if timeout is None else time.monotonic() + check_timeout(timeout)
        sent: list[int] = []
        try:
            check_life = self._life_of(labels.get("to"))
            lane = self._lane(labels.get("to"))
            items = list(payloads)
            while len(sent) < len(items):
                if self._uninterrupted >= UNINTERRUPTED_MAX:
                    await self._give_way()
                    check_life()
                if self._sends.busy(lane) or not self._send_what_fits(items, sent, labels):
                    left = None if end is None else max(0.0, end - time.monotonic())
                    attempt = partial(self._poll_send, items[len(sent)], **labels)
                    sent.append(await self._send_in_turn(lane, attempt, left, check_life))
                    self._uninterrupted += 1
        except BaseException as error:
            told: Any = error
            told.sent = len(sent)
            raise
        return sent

    def _send_what_fits(self, items: list[Buffer], sent: list[int], labels: ManyLabels) -> bool:
        """Some of the rest, without waiting; false: the next one has to wait."""
        some = items[len(sent) : len(sent) + UNINTERRUPTED_MAX]
        try:
            sent += self._sync.send_many_nowait(some, **labels)
        except BaseException as error:
            sent += getattr(error, "_sent_ids", ())
            if not isinstance(error, RingFullError | SlotsExhaustedError):
                raise
            return False
        self._uninterrupted += len(some)
        return True

    async def recv(self, timeout: float | None = None) -> core.Frame:
        """Receive one frame; waits for it. A cancelled receive loses nothing.

        Raises:
            HubTimeoutError, HubClosedError, Host/PeerGoneError
        """
        self._uninterrupted += 1
        if self._uninterrupted > UNINTERRUPTED_MAX:
            await self._give_way()
        if timeout is not None:
            timeout = check_timeout(timeout)
        frame = self._frames.take()
        return await self._frames.wait(timeout) if frame is None else frame

    async def recv_many(self, max: int, timeout: float | None = None) -> list[core.Frame]:
        """Receive up to `max` frames; waits for the first only."""
        max = check_max(max)
        return self._and_more(await self.recv(timeout), max)

    def _and_more(self, first: core.Frame, max: int) -> list[core.Frame]:
        more, all_taken = self._frames.take_returned_frames(max - 1)
        frames = [first, *more]
        try:
            if all_taken and len(frames) < max:
                frames += self._sync.recv_many_nowait(max - len(frames))
        except WouldBlockError:
            self._look()  # these are all there was
        except Exception as error:
            # Frames before news: that somebody is gone, or what `on_peer_gone` raised, is told by
            # the next receive.
            self._frames.put_last(error)
        except BaseException:  # KeyboardInterrupt does not wait for that
            self._frames.put_back(*frames)
            raise
        return frames

    async def _give_way(self) -> None:
        self._uninterrupted = 0
        await asyncio.sleep(0)

    # ---- readiness and the end ----------------------------------------------------------------

    def _serve(self) -> bool:
        """The descriptor is readable: drain it once, then all kinds look."""
        self._uninterrupted = 0
        if not self._sync.closed:
            self._sync.drain()
        return self._look()

    def _look(self) -> bool:
        """Everyone who waits tries again; says whether anybody still waits.

        To be called after each drain, whoever drained: what was taken may have been meant for any
        of them. The poll_... functions do not drain, the core's recv_nowait does.
        """
        waiting = self._frames.serve()
        waiting |= self._sends.serve()
        return self._allocs.serve() or waiting

    def _disarm(self, kind: Literal["send", "alloc"]) -> None:
        if not self._sync.closed:
            self._sync.poll_cancel(kind)

    def close(self) -> None:
        """Close in good order; tasks that wait here get HubClosedError. Idempotent."""
        self._readiness.forget()
        self._sync.close()
        error = HubClosedError(f"transport {self.name!r} was closed while waiting in it")
        for queue in (self._frames, self._sends, self._allocs):
            queue.close(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> core.Frame:
        try:
            return await self.recv()
        except (HostGoneError, PeerGoneError) as gone:
            if gone.clean:
                raise StopAsyncIteration from gone
            raise

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<aio.{type(self).__name__} {self.name!r}{state}>"


class HubHostPeerTransport(_AsyncTransport):
    """The host's conversation with one peer; as `shmhub.HubHostPeerTransport`."""

    def __init__(
        self, host: HubHost, peer_id: int, doorbell: core.Doorbell, *, writable: bool = False
    ) -> None:
        super().__init__(sync.HubHostPeerTransport(host, peer_id, doorbell, writable=writable))


class HubHostTransport(_AsyncTransport):
    """The host's conversation with all peers; as `shmhub.HubHostTransport`.

    `on_peer_gone` is called in the event loop, by whatever receives.
    """

    def __init__(
        self,
        host: HubHost,
        *,
        on_peer_gone: sync.OnPeerGone | None = None,
        writable: bool = False,
    ) -> None:
        super().__init__(sync.HubHostTransport(host, on_peer_gone=on_peer_gone, writable=writable))
        self._host = host

    def _lane(self, to: int | None) -> int | None:
        try:
            return None if to is None else operator.index(to)
        except TypeError:
            return REFUSED

    def _life_of(self, to: int | None) -> Callable[[], None]:
        life = self._life(to)

        def check_life() -> None:
            if self._life(to) != life:
                raise PeerGoneError(
                    f"send on {self.name!r}: peer {to} ended before this was sent; "
                    "add a peer and start it again",
                    peer_id=to,
                    epoch=life,
                )

        return check_life

    def _life(self, peer_id: int | None) -> int | None:
        """Which life of that id it is; None: nobody has it."""
        epochs = (epoch for one, _, _, _, epoch in self._host.raw_peers() if one == peer_id)
        return next(epochs, None)

    async def __anext__(self) -> core.Frame:
        while True:
            try:
                return await self.recv()
            except PeerGoneError as gone:
                if not gone.clean:
                    raise


class HubPeerTransport(_AsyncTransport):
    """A plugin's conversation with its host; as `shmhub.HubPeerTransport`.

    Constructing it waits, in this thread, for the host's service thread to answer.
    """

    def __init__(
        self, peer: HubPeer, doorbell: core.Doorbell, name: str, *, writable: bool = False
    ) -> None:
        super().__init__(sync.HubPeerTransport(peer, doorbell, name, writable=writable))

    def _lane(self, to: int | None) -> int | None:
        # The host has id 0 (`frame.reply_to()` says so); `peer_id` is this peer's own.
        return None if to is None or to == 0 else REFUSED

    @classmethod
    def from_argv(
        cls, argv: Sequence[str] | None = None, *, name: str | None = None, writable: bool = False
    ) -> Self:
        """Attach as the command line says; as `shmhub.HubPeerTransport.from_argv`."""
        self = cls.__new__(cls)
        transport = sync.HubPeerTransport.from_argv(argv, name=name, writable=writable)
        _AsyncTransport.__init__(self, transport)
        return self


if TYPE_CHECKING:  # all of them are what the protocol asks for
    _satisfying: tuple[type[AsyncTransport], ...] = (
        HubHostPeerTransport,
        HubHostTransport,
        HubPeerTransport,
    )


def __getattr__(name: str) -> Any:
    # It lies above this module, and most programs need one of the two only.
    if name == "PluginHost":
        from shmhub.plugin import _aio

        found = globals()[name] = _aio.PluginHost
        return found
    raise AttributeError(f"module 'shmhub.aio' has no attribute {name!r}")
