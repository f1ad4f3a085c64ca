"""The payload of a message: an encoded value, and the buffers beside it.

::

    without BESIDE   value
    with BESIDE      buffer, buffer, ... (each begins at a multiple of 64 bytes), value,
                     length of each buffer (u64), number of buffers (u32), length of value (u32)

Little-endian. The table is at the end so that a slot that was filled before can be sent as the
first buffer without moving it. Knows nothing of calls.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from shmhub._errors import CodecError
from shmhub._native import core
from shmhub._rpc import _wire as wire
from shmhub._rpc._codec import Codec, PickleCodec, make_array

__all__ = ["Encoded", "Message", "decode", "encode"]

ALIGNMENT = 64
TAIL = struct.Struct("<II")
REUSE_LEAST = 16 << 10  # bytes: copying fewer costs no more than to look where they lie
FAST_LIMIT = 4096  # plain data up to here need no codec

INLINE_MAX: int = core.abi.get("inline_max", 0)  # longer payloads lie in shared memory
NOT_SIMPLE = wire.BESIDE | wire.CODED

Views = AbstractSet[int | str] | bool | None


class Encoded:
    """A value ready to be sent: not in a slot yet, so it may wait for its turn.

    Attributes:
        size: of the payload, in bytes.
        slot: where it lies already, after `settle_in`; else None.
    """

    __slots__ = ("buffers", "flags", "head", "size", "slot")

    def __init__(self, head: bytes, buffers: list[Any], flags: int) -> None:
        self.head = head
        self.buffers = buffers
        self.flags = flags
        self.slot: Any = None
        self.size = len(head)
        if buffers:
            self.flags |= wire.BESIDE
            views: list[Any] = [memoryview(one).cast("B") for one in buffers]
            self.buffers = views
            end = 0
            for view in views:
                end = _aligned(end) + len(view)
            self.size = end + len(head) + 8 * len(views) + TAIL.size

    def write(self, target: Any) -> None:
        """Into a slot of `size` bytes."""
        at = 0
        lengths = []
        for view in self.buffers:
            at = _aligned(at)
            target.write(view, at)
            at += len(view)
            lengths.append(len(view))
        target.write(self.head, at)
        if lengths:
            target.write(_tail(lengths, len(self.head)), at + len(self.head))

    def settle_in(self, frame: Any) -> None:
        """Use the slot of a received message again, if buffers lie in it where they would be put:
        a result that is one of the arguments goes back without a copy.

        Not if anybody else still shows what is in it, if it does not fit, or if it is less than
        half of what came: a small result must not keep a large slot.
        """
        if self.size < REUSE_LEAST or type(frame) is Message:
            return
        if frame.released or 2 * self.size < len(frame):
            return
        places = []
        at = 0
        view = None
        for view in self.buffers:
            at = _aligned(at)
            places.append((at, len(view), frame.place(view)))
            at += len(view)
        settled = [index for index, (at, _, place) in enumerate(places) if place == at]
        if not settled or any(place not in (None, at) for at, _, place in places):
            return
        del view
        for index in settled:
            self.buffers[index] = None  # if these are the last, the slot is ours alone
        slot = None
        try:
            slot = frame.take()
            slot.resize(self.size)
        except Exception:  # views are kept, there is no room, no memory, no hub: copied, as ever
            payload = memoryview(frame if slot is None else slot)
            for index in settled:
                at, length, _ = places[index]
                self.buffers[index] = payload[at : at + length]
            return
        for (at, _, _), view in zip(places, self.buffers, strict=True):
            if view is not None:
                slot.write(view, at)
        end = places[-1][0] + places[-1][1]
        slot.write(self.head, end)
        slot.write(_tail([length for _, length, _ in places], len(self.head)), end + len(self.head))
        self.slot = slot
        self.buffers = []

    def joined(self) -> bytes:
        """The payload in one piece."""
        if not self.buffers:
            return self.head
        pieces: list[Any] = []
        at = 0
        for view in self.buffers:
            pieces += (bytes(_aligned(at) - at), view)
            at = _aligned(at) + len(view)
        pieces += (self.head, _tail([len(view) for view in self.buffers], len(self.head)))
        return b"".join(pieces)


def _aligned(at: int) -> int:
    return (at + ALIGNMENT - 1) & -ALIGNMENT


def _tail(lengths: list[int], head: int) -> bytes:
    return struct.pack(f"<{len(lengths)}Q", *lengths) + TAIL.pack(len(lengths), head)


def encode(value: Any, codec: Codec, flags: int = 0) -> Encoded:
    """Ready to be sent; plain data the short way.

    Raises:
        CodecError: it cannot be encoded.
    """
    buffers: list[Any] = []
    if codec.takes_plain:
        try:
            head = core.plain_encode(value, buffers, FAST_LIMIT, type(codec) is PickleCodec)
        except (ValueError, RuntimeError, BufferError) as error:
            raise CodecError(f"encoding a {type(value).__name__}: {error}") from error
        if head is not None:
            return Encoded(head, buffers, flags)
    try:
        head = codec.encode(value, buffers)
    except CodecError:
        raise
    except Exception as error:
        raise CodecError(
            f"encoding a {type(value).__name__} with codec {codec.name!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return Encoded(head, buffers, flags if codec.name == "plain" else flags | wire.CODED)


class Message:
    """A received message whose payload is private memory: copied, or joined from parts.

    Looks like a Frame where RPC looks.
    """

    __slots__ = ("channel", "data", "deadline", "flags", "message_id", "method", "peer_id")
    crowded = False
    shown = False

    def __init__(self, frame: Any, data: bytes) -> None:
        self.channel: int = frame.channel
        self.method: int = frame.method
        self.flags: int = frame.flags
        self.message_id: int = frame.message_id
        self.deadline: float | None = frame.deadline
        self.peer_id: int = frame.peer_id
        self.data = data

    def release(self) -> None:
        """As a Frame's."""
        self.data = b""


def private(frame: Any) -> Message:
    """The frame's message with its payload copied; the slot is free again."""
    if isinstance(frame, Message):
        return frame
    message = Message(frame, bytes(frame))
    frame.release()
    return message


def decode(frame: Any, codec: Codec, views: Views = None) -> Any:
    """The value of a message. Views in it keep the frame; otherwise drop the frame.

    Args:
        views: what must come as a memoryview whatever was sent: True: the value; a set: elements
            of the tuple (indices) or of the dict at its end (keys).

    Raises:
        CodecError: the payload is not what it must be.
    """
    data = frame.data if type(frame) is Message else frame
    flags = frame.flags
    try:
        if not flags & NOT_SIMPLE and len(data) <= INLINE_MAX:
            return core.plain_decode(data, None, views or None, None)
        return _decode_large(frame, data, flags, codec, views)
    except (ValueError, struct.error) as error:
        raise CodecError(f"decoding a message of {len(data)} bytes: {error}") from error


def _decode_large(frame: Any, data: Any, flags: int, codec: Codec, views: Views) -> Any:
    if frame.crowded:
        # More is held than this side's share: what comes now must not keep its slot.
        data = bytes(frame)
        frame.release()
    buffers: Sequence[memoryview] = ()
    if flags & wire.BESIDE:
        head, buffers = _split(memoryview(data))
    else:
        # In shared memory it could change between a check and its use.
        head = bytes(data)
    if not flags & wire.CODED:
        arrays = make_array if type(codec) is PickleCodec else None
        return core.plain_decode(head, buffers, views or None, arrays)
    value = codec.decode(head, buffers)
    return _with_views(value, views, bool(flags & wire.KWARGS)) if views else value


def _split(payload: memoryview) -> tuple[bytes, list[memoryview]]:
    size = len(payload)
    if size < TAIL.size:
        raise ValueError("there is no room for the table of its buffers")
    count, head = TAIL.unpack_from(payload, size - TAIL.size)
    table = size - TAIL.size - 8 * count
    if table < head:
        raise ValueError("its table of buffers is longer than itself")
    buffers = []
    end = 0
    for length in struct.unpack_from(f"<{count}Q", payload, table):
        begin = _aligned(end)
        end = begin + length
        if end > table - head:
            raise ValueError("a buffer is longer than what came")
        buffers.append(payload[begin:end])
    if end != table - head:
        raise ValueError("its buffers and what came differ in size")
    return bytes(payload[end:table]), buffers


def _with_views(value: Any, views: Views, kwargs: bool) -> Any:
    """What a codec decoded as bytes becomes a view; plain data are decoded as views at once."""

    def as_view(one: Any) -> Any:
        return memoryview(one) if isinstance(one, bytes | bytearray) else one

    if views is True:
        return as_view(value)
    assert not isinstance(views, bool | None)
    if type(value) is not tuple:
        return value
    items = [as_view(one) if index in views else one for index, one in enumerate(value)]
    if kwargs and items and type(items[-1]) is dict:
        items[-1] = {key: as_view(one) if key in views else one for key, one in items[-1].items()}
    return tuple(items)
