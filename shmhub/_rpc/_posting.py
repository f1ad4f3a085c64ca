"""Sending messages of one link: room, slots, and what goes when there are none.

A message never needs a slot: what does not get one within SLOT_GRACE goes in parts through the
ring, which the other side always reads (see docs/rpc-protocol.md). So calls that hold slots, and
wait for others that need some, slow each other down and never stop. Knows nothing of calls but
how their messages are numbered.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any

from shmhub._errors import (
    CodecError,
    HostGoneError,
    HubClosedError,
    HubNoSpaceError,
    HubTimeoutError,
    PeerGoneError,
    PeerStateError,
    SlotsExhaustedError,
    WouldBlockError,
)
from shmhub._rpc import _wire as wire
from shmhub._rpc._codec import get_codec
from shmhub._rpc._failure import plain_failure
from shmhub._rpc._payload import INLINE_MAX, Encoded, encode

__all__ = ["LOST", "Posting"]

SLOT_GRACE = 0.2  # seconds without a slot before a message goes in parts
PART_LARGE = 64 << 10  # bytes of a part, where there is a slot for it
MOST_UNSENT = 10_000  # short messages that wait for room
# PeerStateError: its place in the hub is gone already.
LOST = (PeerGoneError, PeerStateError, HostGoneError, HubClosedError)


class Posting:
    """The sending half of a `Link`. Safe from several threads."""

    def __init__(self, transport: Any, peer_id: int, name: str, life: int) -> None:
        self.transport = transport
        self.peer_id = peer_id
        self.name = name
        self.life = life
        self.plain = get_codec("plain")
        self._outbox: deque[tuple[int, int, int, int, bytes]] = deque()
        self._outbox_lock = threading.Lock()
        self._posting = False  # a thread empties the outbox
        self._post = transport.post
        # Around a wait for room: what else must know that this thread waits.
        self.blocking: Callable[[], AbstractContextManager[None]] = nullcontext

    def send(
        self,
        kind: int,
        message_id: int,
        encoded: Encoded,
        *,
        number: int = 0,
        flags: int = 0,
        wait: bool = True,
    ) -> None:
        """A message that must go: waits for room as long as the link lives.

        Raises:
            PeerGoneError, HostGoneError, HubClosedError, PayloadTooLargeError;
            WouldBlockError: `wait` is False, and it would have to wait for room or a slot.
        """
        self.put(kind, encoded, number, flags | encoded.flags, message_id, None, wait)

    def put(
        self,
        kind: int,
        encoded: Encoded,
        number: int,
        flags: int,
        message_id: int,
        deadline: float | None,
        wait: bool,
    ) -> None:
        """A message; waits for room until its deadline, which the other side is told.

        Raises:
            HubTimeoutError: there was no room until the deadline; otherwise as `send`.
        """
        try:
            if encoded.size <= INLINE_MAX:
                self._post(
                    encoded.joined(), self.peer_id, kind, number, flags, message_id, deadline, 0
                )
            elif encoded.slot is not None:
                self._post(encoded.slot, self.peer_id, kind, number, flags, message_id, deadline, 0)
            else:
                self._put_in_slot(kind, encoded, number, flags, message_id, deadline, wait)
            return
        except (HubTimeoutError, SlotsExhaustedError, HubNoSpaceError) as error:
            if not wait:
                raise WouldBlockError(f"{self.name}: no room or slot just now") from error
        with self.blocking():
            timeout = _left(deadline)
            if encoded.size <= INLINE_MAX or encoded.slot is not None:
                self._post(
                    encoded.slot or encoded.joined(),
                    self.peer_id,
                    kind,
                    number,
                    flags,
                    message_id,
                    deadline,
                    timeout,
                )
                return
            grace = SLOT_GRACE if timeout is None else min(SLOT_GRACE, timeout)
            try:
                slot = self.transport.alloc_to(encoded.size, self.peer_id, grace)
            except (HubTimeoutError, SlotsExhaustedError, HubNoSpaceError) as error:
                if timeout is not None and timeout <= grace:
                    if isinstance(error, SlotsExhaustedError):  # the deadline passed before it
                        raise HubTimeoutError(f"{self.name}: no slot in time") from error
                    raise
                self._put_in_parts(kind, encoded, number, flags, message_id, deadline)
                return
            self._fill_and_post(
                slot, kind, encoded, number, flags, message_id, deadline, _left(deadline)
            )

    def _put_in_slot(
        self,
        kind: int,
        encoded: Encoded,
        number: int,
        flags: int,
        message_id: int,
        deadline: float | None,
        wait: bool,
    ) -> None:
        """If there is a slot. Having filled it, wait for room if that is allowed."""
        slot = self.transport.alloc_to(encoded.size, self.peer_id, 0)
        if not wait:
            self._fill_and_post(slot, kind, encoded, number, flags, message_id, deadline, 0)
            return
        with self.blocking():
            timeout = _left(deadline)
            self._fill_and_post(slot, kind, encoded, number, flags, message_id, deadline, timeout)

    def _fill_and_post(
        self,
        slot: Any,
        kind: int,
        encoded: Encoded,
        number: int,
        flags: int,
        message_id: int,
        deadline: float | None,
        timeout: float | None,
    ) -> None:
        with slot:
            encoded.write(slot)
            self._post(slot, self.peer_id, kind, number, flags, message_id, deadline, timeout)

    def refuse(self, frame: Any, failure: tuple[Any, ...]) -> None:
        """Answer a call of theirs by ERROR; a notification has no answer."""
        if frame.channel == wire.CALL:
            self.refuse_id(frame.message_id, failure)

    def refuse_id(self, call_id: int, failure: tuple[Any, ...]) -> None:
        """The same by its id. Never raises; whoever reads may call it with what is short."""
        try:
            encoded = encode(failure, self.plain)
        except CodecError as error:  # lone surrogates in a text, and what else there may be
            encoded = encode(plain_failure(wire.ENCODE, f"{error}"), self.plain)
        if encoded.size <= INLINE_MAX:
            self.tell(wire.ERROR, call_id, data=encoded.joined())
            return
        try:
            self.send(wire.ERROR, call_id, encoded)
        except LOST:
            return

    def _put_in_parts(
        self,
        kind: int,
        encoded: Encoded,
        number: int,
        flags: int,
        message_id: int,
        deadline: float | None,
    ) -> None:
        """Through the ring, with slots where there are any: needs none to come to its end."""
        data = memoryview(encoded.joined())
        about = message_id ^ wire.ABOUT if kind in (wire.CALL, wire.NOTIFY) else message_id
        sent = 0
        try:
            while len(data) - sent > INLINE_MAX:
                first = wire.FIRST if sent == 0 else 0
                place = flags & ~0xFF | first
                sent += self._put_part(data[sent : sent + PART_LARGE], kind, place, about, deadline)
            self._post(
                data[sent:],
                self.peer_id,
                kind,
                number,
                flags | wire.PARTS,
                message_id,
                deadline,
                _left(deadline),
            )
        except HubTimeoutError:
            self.tell(wire.CANCEL, self.about(message_id))  # the other side forgets what came
            raise

    def _put_part(
        self, data: memoryview, kind: int, flags: int, about: int, deadline: float | None
    ) -> int:
        method = kind & 0xFF
        try:
            self._post(data, self.peer_id, wire.PART, method, flags, about, None, 0)
            return len(data)
        except (HubTimeoutError, SlotsExhaustedError, HubNoSpaceError):
            piece = data[:INLINE_MAX]
        self._post(piece, self.peer_id, wire.PART, method, flags, about, None, _left(deadline))
        return len(piece)

    def about(self, call_id: int) -> int:
        """The id of a message about that call, other than CALL and its answers."""
        ours = (call_id ^ self.life) & wire.FROM_PEER == 0
        return call_id | wire.ABOUT if ours else call_id

    def tell_flow(self, kind: int, call_id: int, index: int, *, number: int) -> None:
        """The same about one of its streams."""
        self.tell(kind, self.about(call_id), number=number, flags=index << wire.TREE_SHIFT)

    def send_flow(
        self,
        kind: int,
        call_id: int,
        index: int,
        encoded: Encoded,
        *,
        number: int = 0,
        flags: int = 0,
        wait: bool = True,
    ) -> None:
        """An item or the end of one of its streams; raises as `send`."""
        flags |= index << wire.TREE_SHIFT
        self.send(kind, self.about(call_id), encoded, number=number, flags=flags, wait=wait)

    def tell(
        self, kind: int, message_id: int, *, number: int = 0, flags: int = 0, data: bytes = b"N"
    ) -> None:
        """A short message; never waits.

        When the ring is full a thread of its own waits for room, until the link is lost. Whoever
        reads may call this.
        """
        with self._outbox_lock:
            if not self._posting:
                try:
                    self._post(data, self.peer_id, kind, number, flags, message_id, None, 0)
                    return
                except HubTimeoutError:
                    pass
                except (SlotsExhaustedError, *LOST):
                    return
                self._posting = True
                threading.Thread(
                    target=self._post_outbox, name=f"shmhub-outbox-{self.name}", daemon=True
                ).start()
            if len(self._outbox) >= MOST_UNSENT and kind == wire.ERROR:
                return  # it calls and calls, and does not read the answers
            self._outbox.append((kind, number, flags, message_id, data))

    def _post_outbox(self) -> None:
        while True:
            with self._outbox_lock:
                if not self._outbox:
                    self._posting = False
                    return
                kind, number, flags, message_id, data = self._outbox.popleft()
            try:
                self._post(data, self.peer_id, kind, number, flags, message_id, None, None)
            except LOST:
                with self._outbox_lock:
                    self._outbox.clear()
                    self._posting = False
                return


def _left(deadline: float | None) -> float | None:
    """Seconds until then, as a timeout."""
    return None if deadline is None else max(0.0, deadline - monotonic())
