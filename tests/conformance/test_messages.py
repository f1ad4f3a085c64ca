"""What is sent arrives: with its labels, in order, whatever its size and its buffer."""

from __future__ import annotations

import array
import time
from typing import Any

import numpy as np
import pytest

import shmhub
from tests.support import patterns
from tests.support.environment import PATIENCE
from tests.support.sides import Pair, make_pair
from tests.support.stage import Stage, fixed

SIZES = [0, 1, 15, 16, 17, 63, 64, 239, 240, 241, 1023, 1024, 1025, 16384, 16385, 1 << 20]


def test_it_is_what_its_annotation_says(pair: Pair, kind: str) -> None:
    protocol = shmhub.AsyncTransport if kind.startswith("aio") else shmhub.Transport
    assert isinstance(pair.side.transport, protocol)


@pytest.mark.parametrize("size", SIZES)
def test_payloads_of_every_size_both_ways(pair: Pair, size: int) -> None:
    sent = pair.side.send(patterns.make(size, 3, 8))
    received = pair.other("recv", timeout=PATIENCE)[0]
    assert (received["length"], received["message_id"]) == (size, sent)
    if size < patterns.HEADER.size:
        assert received["bytes"] == patterns.make(size, 3, 8)
    pair.other("send", size=size, sender=4, first=9)
    with pair.recv() as frame:
        assert len(frame) == len(frame.payload) == size
        patterns.check(frame.payload, sender=4, sequence=9)


def test_order_is_kept_over_all_sizes(pair: Pair) -> None:
    sizes = [16, 1000, 100, 20_000, 240, 241, 16]
    pending = pair.start_other("recv", count=70, timeout=PATIENCE)
    for sequence in range(70):
        pair.side.send(patterns.make(sizes[sequence % 7], 1, sequence), timeout=PATIENCE)
    assert [frame["sequence"] for frame in pending.result()] == list(range(70))
    sending = pair.start_other("send", count=70, sizes=sizes, timeout=PATIENCE)
    for sequence in range(70):
        with pair.recv() as frame:
            patterns.check(frame.payload, sequence=sequence)
    sending.result()


@pytest.mark.parametrize(
    "fields",
    [
        {"channel": 0, "method": 0, "flags": 0},
        {"channel": 1, "method": 65535, "flags": 1},
        {"channel": 0xFEFF, "method": 77, "flags": 0x00FFFFFF},
        {"message_id": 0},
        {"message_id": 2**64 - 1, "channel": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [10, 5000])
def test_labels_arrive_as_they_were_given(pair: Pair, fields: dict[str, int], size: int) -> None:
    returned = pair.side.send(bytes(size), **fields)
    received = pair.other("recv_labels", timeout=PATIENCE)
    assert received["message_id"] == returned == fields.get("message_id", returned)
    for name in ("channel", "method", "flags"):
        assert received[name] == fields.get(name, 0)
    ids = pair.other("send", size=64, **fields)
    with pair.recv() as frame:
        assert frame.message_id == ids[0]
        for name in ("channel", "method", "flags"):
            assert getattr(frame, name) == fields.get(name, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"channel": -1},
        {"channel": 65536},
        {"method": -1},
        {"method": 65536},
        {"flags": -1},
        {"flags": 2**32},
        {"message_id": -1},
        {"message_id": 2**64},
    ],
    ids=str,
)
def test_labels_out_of_range_are_refused(pair: Pair, fields: dict[str, int]) -> None:
    with pytest.raises((ValueError, OverflowError)) as failure:
        pair.side.send(b"x", **fields)
    (name,) = fields
    assert name in str(failure.value), failure.value
    pair.side.send(b"fine")
    assert pair.other("recv", timeout=PATIENCE)[0]["bytes"] == b"fine"


def test_a_deadline_is_an_absolute_monotonic_time(pair: Pair) -> None:
    for deadline in (None, time.monotonic() + 2.5, 1.0):
        pair.side.send(b"d" * 20, deadline=deadline)
        received = pair.other("recv_labels", timeout=PATIENCE)["deadline"]
        assert received == (None if deadline is None else pytest.approx(deadline, abs=1e-6))


def test_automatic_message_ids_are_distinct_and_returned(pair: Pair) -> None:
    ids = [pair.side.send(b"x") for _ in range(5)] + pair.side.send_many([b"y"] * 5)
    assert len(set(ids)) == 10
    received = pair.other("recv", count=10, timeout=PATIENCE)
    assert [frame["message_id"] for frame in received] == ids


BUFFERS: list[Any] = [
    b"bytes here",
    bytearray(b"bytearray"),
    memoryview(b"a view of bytes")[2:9],
    array.array("i", [1, -2, 3]),
    np.arange(300, dtype=np.float64),
    np.zeros((3, 4, 5), dtype=np.int16),
    memoryview(np.ones((2, 2), dtype=np.float32)),
    np.zeros(0),
]


@pytest.mark.parametrize("payload", BUFFERS, ids=lambda payload: type(payload).__name__)
def test_any_contiguous_buffer_goes_in(pair: Pair, payload: Any) -> None:
    pair.side.send(payload)
    expected = bytes(memoryview(payload).cast("B")) if memoryview(payload).nbytes else b""
    assert pair.other("recv_bytes", timeout=PATIENCE) == expected


@pytest.mark.parametrize(
    "payload", ["text", 5, None, memoryview(b"abcdef")[::2], np.zeros((4, 4))[:, 1]], ids=repr
)
def test_what_is_no_contiguous_buffer_is_refused(pair: Pair, payload: Any) -> None:
    with pytest.raises((TypeError, BufferError, ValueError)):
        pair.side.send(payload)
    with pytest.raises((TypeError, BufferError, ValueError)):
        pair.side.send_nowait(payload)


def test_the_payload_is_copied_at_the_time_of_sending(pair: Pair) -> None:
    for size in (10, 200, 900):
        payload = bytearray(b"1" * size)
        pair.side.send(payload)
        payload[:] = b"2" * size
        assert pair.other("recv_bytes", timeout=PATIENCE) == b"1" * size


def test_a_frame_is_a_buffer(pair: Pair) -> None:
    for size in (100, 5000):
        pair.other("send", size=size)
        frame = pair.recv()
        assert bytes(frame) == bytes(frame.payload) == patterns.make(size, 0, 0)
        assert memoryview(frame).readonly and frame.payload.readonly
        assert np.frombuffer(frame, np.uint8).nbytes == size
        frame.release()
        frame.release()


def test_frames_can_be_writable_when_asked_for(stage: Stage, kind: str) -> None:
    pair = make_pair(stage, kind, fixed((1024, 8)), writable=True)
    for size in (100, 900):
        pair.other("send", size=size)
        with pair.recv() as frame:
            frame.payload[:3] = b"abc"
            assert bytes(frame)[:3] == b"abc"


def test_an_answer_finds_its_way_back(pair: Pair) -> None:
    for size in (20, 3000):
        sent = pair.side.send(patterns.make(size, 1, 1), channel=3, method=4)
        described = pair.start_other("answer")
        with pair.recv() as frame:
            assert (frame.message_id, frame.channel, frame.method) == (sent, 3, 4)
            patterns.check(frame.payload, sender=1, sequence=1)
            reply = frame.reply_to()
        assert described.result()["message_id"] == sent
        assert {"to", "channel", "method", "message_id"} == set(reply)
        pair.side.send(b"again", **reply)
        received = pair.other("recv_labels", timeout=PATIENCE)
        assert (received["message_id"], received["channel"]) == (sent, 3)


def test_a_frame_is_passed_on_with_its_labels(pair: Pair) -> None:
    for size in (100, 5000):
        pair.other("send", size=size, sender=2, channel=8, method=9, flags=10, message_id=11)
        pair.side.send(pair.recv())
        received = pair.other("recv", timeout=PATIENCE)[0]
        labels = {name: received[name] for name in ("channel", "method", "flags", "message_id")}
        assert labels == {"channel": 8, "method": 9, "flags": 10, "message_id": 11}
        assert (received["sender"], received["length"]) == (2, size)
        pair.other("send", size=size, sender=2, channel=8, method=9, message_id=11)
        pair.side.send(pair.recv(), channel=1, message_id=99)
        received = pair.other("recv", timeout=PATIENCE)[0]
        assert (received["channel"], received["method"], received["message_id"]) == (1, 9, 99)


def test_many_at_once(pair: Pair) -> None:
    payloads = [patterns.make(size, 1, n) for n, size in enumerate((16, 300, 16, 5000, 240, 16))]
    ids = pair.side.send_many(payloads, channel=6)
    received = pair.other("recv", count=6, timeout=PATIENCE)
    assert [frame["message_id"] for frame in received] == ids
    assert [frame["sequence"] for frame in received] == list(range(6))
    assert {frame["channel"] for frame in received} == {6}
    pair.other("send_many", count=7, size=50, sender=1)
    frames: list[Any] = []
    while len(frames) < 7:
        frames += pair.side.recv_many(4, timeout=PATIENCE)
    assert [patterns.check(frame.payload).sequence for frame in frames] == list(range(7))
    assert pair.side.send_many([]) == []


def test_receiving_many_takes_no_more_than_asked_for(pair: Pair) -> None:
    pair.other("send_many", count=7, size=20, sender=1)
    sizes = []
    while sum(sizes) < 7:
        frames = pair.side.recv_many(3, timeout=PATIENCE)
        assert 1 <= len(frames) <= 3
        sizes.append(len(frames))
    with pytest.raises(shmhub.WouldBlockError):
        pair.side.recv_many_nowait(3)
    for wrong in (0, -1):
        with pytest.raises(ValueError):
            pair.side.recv_many(wrong, timeout=0)


def test_statistics_count_what_went_through(pair: Pair) -> None:
    before = pair.side.statistics()
    for size in (0, 100, 5000):
        pair.side.send(bytes(size))
        assert len(pair.other("recv_bytes", timeout=PATIENCE)) == size
    pair.other("send", count=2, size=300)
    for _ in range(2):
        pair.recv().release()
    after = pair.side.statistics()
    assert after.sent - before.sent == 3
    assert after.received - before.received == 2
    assert after.bytes_sent - before.bytes_sent == 5100
    assert after.bytes_received - before.bytes_received == 600
