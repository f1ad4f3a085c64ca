"""The extension's types: messages, arguments, the other side's end, doorbells, errors."""

from __future__ import annotations

import array
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shmhub import _core, _errors
from tests.unit.core_pair import (
    CLASSES,
    IN_SLOT,
    INLINE,
    LARGE,
    RING,
    Pair,
)

pytestmark = pytest.mark.time_limit(20)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_what_was_built() -> None:
    assert _core.abi["version"] == (1, 0)
    assert _core.abi["inline_max"] == 240
    assert _core.abi["ref_class_bits"] + _core.abi["ref_index_bits"] == 32
    assert isinstance(_core.abi["test_wrap"], bool)


# ---- messages ----------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", INLINE, b"x" * 240, b"x" * 241, IN_SLOT, LARGE])
def test_a_message_arrives_with_its_fields(pair: Pair, payload: bytes) -> None:
    deadline = time.monotonic() + 5
    sent = pair.far.send(
        payload, channel=7, method=65535, flags=0xABCDEF, message_id=2**64 - 1, deadline=deadline
    )
    with pair.near.recv(timeout=5) as frame:
        assert bytes(frame) == payload
        assert frame.payload == payload
        assert len(frame) == len(payload)
        assert (sent, frame.message_id) == (2**64 - 1, 2**64 - 1)
        assert (frame.channel, frame.method, frame.flags) == (7, 65535, 0xABCDEF)
        assert frame.deadline == pytest.approx(deadline, abs=1e-6)
        assert frame.peer_id == pair.peer_id
        assert frame.reply_to() == {
            "to": pair.peer_id, "channel": 7, "method": 65535, "message_id": 2**64 - 1,
        }  # fmt: skip
        pair.near.send(payload, **frame.reply_to())
    back = pair.far.recv(timeout=5)
    assert (back.peer_id, back.deadline, bytes(back)) == (0, None, payload)
    del frame, back
    assert pair.held() == 0


@pytest.mark.parametrize(
    "payload",
    [bytearray(IN_SLOT), memoryview(IN_SLOT), array.array("i", range(99)), bytearray(LARGE)],
    ids=["bytearray", "memoryview", "array", "large bytearray"],
)
def test_any_contiguous_buffer_is_a_payload(pair: Pair, payload: Any) -> None:
    wanted = bytes(memoryview(payload).cast("B"))
    pair.far.send(payload)
    assert bytes(pair.near.recv()) == wanted
    pair.far.send_many([payload, b"", payload])
    assert [bytes(frame) for frame in pair.near.recv_many(4)] == [wanted, b"", wanted]


def test_what_is_no_payload(pair: Pair) -> None:
    with pytest.raises(TypeError, match="not str"):
        pair.far.send("text")  # type: ignore[arg-type]
    with pytest.raises(BufferError, match="not C-contiguous"):
        pair.far.send(memoryview(b"abcdef")[::2])
    with pytest.raises(TypeError, match="not one bytes"):
        pair.far.send_many(b"abc")  # type: ignore[arg-type]
    with pytest.raises(BufferError, match="not C-contiguous") as caught:
        pair.far.send_many([b"a", b"b", memoryview(b"abcdef")[::2], b"c"])
    assert caught.value.sent == 2  # type: ignore[attr-defined]
    assert [bytes(f) for f in pair.near.recv_many(9)] == [b"a", b"b"]


def test_automatic_ids_count(pair: Pair) -> None:
    first = pair.far.send(b"a")
    assert pair.far.send(b"b") == first + 1
    assert pair.far.send_many([b"c", b"d"]) == [first + 2, first + 3]
    assert [f.message_id for f in pair.near.recv_many(10)] == [first + i for i in range(4)]


def test_many_at_once(pair: Pair) -> None:
    firsts = []
    for start in range(0, 90, 3):
        pair.far.send_many([bytes([start + i]) * (1 + start * 4) for i in range(3)])
        frames = pair.near.recv_many(2, timeout=5) + pair.near.recv_many_nowait(7)
        firsts += [bytes(frame)[0] for frame in frames]
    assert firsts == list(range(90))
    with pytest.raises(_errors.WouldBlockError):
        pair.near.recv_many_nowait(7)


# ---- arguments ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"channel": -1}, ValueError),
        ({"channel": 0xFF00}, ValueError),
        ({"channel": "1"}, TypeError),
        ({"method": 65536}, ValueError),
        ({"flags": 1 << 24}, ValueError),
        ({"message_id": 1 << 64}, ValueError),
        ({"message_id": -1}, ValueError),
        ({"message_id": 1.5}, TypeError),
        ({"deadline": float("nan")}, ValueError),
        ({"deadline": "soon"}, TypeError),
        ({"timeout": -0.1}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"to": 3}, ValueError),
        ({"to": 64}, ValueError),
        ({"colour": 1}, TypeError),
    ],
    ids=str,
)
def test_wrong_arguments_send_nothing(
    pair: Pair, keywords: dict[str, Any], error: type[Exception]
) -> None:
    name = next(iter(keywords))
    with pytest.raises(error, match=name):
        pair.far.send(IN_SLOT, **keywords)
    assert pair.held() == 0
    with pytest.raises(_errors.WouldBlockError):
        pair.near.recv_nowait()


def test_keywords_need_not_be_interned(pair: Pair) -> None:
    name = "".join(["chan", "nel"])
    pair.far.send(b"x", **{name: 5})  # type: ignore[arg-type]
    assert pair.near.recv().channel == 5


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.send(b"a", b"b"),
        lambda t: t.send_nowait(b"a", timeout=1),
        lambda t: t.send_many([b"a"], message_id=4),
        lambda t: t.send_many(),
        lambda t: t.recv(1, timeout=1),
        lambda t: t.recv(1, 2),
        lambda t: t.alloc(),
        lambda t: t.alloc(10, 1),
        lambda t: t.alloc_nowait(bytes=1),
        lambda t: t.recv_many(),
        lambda t: t.poll_alloc(),
        lambda t: t.set_on_gone(5),
    ],
)
def test_calls_that_are_type_errors(pair: Pair, call: Callable[[_core.Transport], object]) -> None:
    with pytest.raises(TypeError):
        call(pair.far)


def test_calls_that_are_value_errors(pair: Pair) -> None:
    for wrong in (
        lambda: pair.far.alloc_nowait(-1),
        lambda: pair.far.recv_many(0),
        lambda: pair.far.poll_cancel("receive"),  # type: ignore[arg-type]
        lambda: pair.host.remove_peer(0),
        lambda: pair.host.remove_peer(99),
        lambda: pair.host.remove_peer(-1),
        lambda: pair.host.remove_peer(2**70),
        lambda: _core.Peer("/nowhere", 0),
        lambda: _core.Peer("/nowhere", 64),
        lambda: _core.Host(None, (), 4, RING, 0, 0),
        lambda: _core.Host(None, ((1024, -1, 1),), 4, RING, 0, 0),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            wrong()


def test_types_that_only_the_core_makes() -> None:
    for made_by_core in (_core.Slot, _core.Frame):
        with pytest.raises(TypeError, match="cannot create"):
            made_by_core()
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Mine", (made_by_core,), {})


def test_objects_that_were_never_opened() -> None:
    for one in (_core.Host, _core.Peer, _core.Transport):
        empty = one.__new__(one)
        assert empty.closed
        empty.close()
    with pytest.raises(_errors.HubClosedError):
        _core.Transport.__new__(_core.Transport).recv()
    with pytest.raises(_errors.HubClosedError):
        _core.Host.__new__(_core.Host).trim()


def test_nothing_is_opened_twice(pair: Pair) -> None:
    with pytest.raises(RuntimeError):
        pair.host.__init__(None, CLASSES, 4, RING, 0, 0)  # type: ignore[misc]
    with pytest.raises(RuntimeError):
        pair.near.__init__(pair.host, None, "again", False)  # type: ignore[misc]
    with pytest.raises(_errors.PeerStateError):
        _core.Transport(pair.host, pair.doorbell, "second", False)


# ---- the other side ----------------------------------------------------------


def test_the_other_side_closes(pair: Pair) -> None:
    pair.far.send(b"last words")
    pair.far.close()
    assert bytes(pair.near.recv(timeout=5)) == b"last words"
    with pytest.raises(_errors.PeerGoneError) as caught:
        pair.near.recv(timeout=5)
    assert (caught.value.clean, caught.value.peer_id) == (True, pair.peer_id)
    assert caught.value.undelivered == ()


def test_the_host_closes(pair: Pair) -> None:
    pair.near.send(b"last words")
    pair.near.close()
    pair.host.close()
    assert bytes(pair.far.recv(timeout=5)) == b"last words"
    with pytest.raises(_errors.HostGoneError) as caught:
        pair.far.recv(timeout=5)
    assert caught.value.clean is True


def test_all_peers() -> None:
    pair = Pair(all_peers=True)
    assert pair.near.peer_id is None
    pair.far.send(b"hello")
    frame = pair.near.recv(timeout=5)
    pair.near.send(b"answer", **frame.reply_to())
    assert bytes(pair.far.recv(timeout=5)) == b"answer"
    for wrong in ({}, {"to": 0}):
        with pytest.raises(ValueError, match="to="):
            pair.near.send(b"x", **wrong)  # type: ignore[arg-type]
    pair.far.close()
    with pytest.raises(_errors.PeerGoneError) as caught:
        pair.near.recv(timeout=5)
    assert (caught.value.clean, caught.value.peer_id) == (True, pair.peer_id)
    assert pair.near.pop_gone() is None
    with pytest.raises(_errors.HubTimeoutError):
        pair.near.recv(timeout=0.01)
    pair.close()


def test_a_death_calls_back() -> None:
    pair = Pair(all_peers=True)
    told: list[tuple[Any, ...]] = []
    pair.near.set_on_gone(lambda *args: told.append(args))
    pair.far.close()
    with pytest.raises(_errors.HubTimeoutError):
        pair.near.recv(timeout=1)
    assert [(t[0], t[1], t[2], t[4]) for t in told] == [(pair.peer_id, pair.epoch, True, ())]
    pair.close()


# ---- doorbells ---------------------------------------------------------------


def test_a_doorbell_by_hand() -> None:
    left, right = socket.socketpair()
    with _core.Doorbell(left.detach()) as mine, _core.Doorbell.from_raw_fd(right.detach()) as other:
        assert mine.wait(0) is False
        assert mine.wait(timeout=0.001) is False
        other.ring()
        other.ring()
        assert mine.wait(5) is True
        assert mine.drain() >= 1
        assert (mine.drain(), mine.peer_closed) == (0, False)
        assert (mine.host, mine.peer_id, mine.epoch) == (None, None, None)
        other.close()
        other.close()
        assert (other.closed, mine.peer_closed) == (True, True)
        for use in (other.fileno, other.ring, other.wait, other.drain):
            with pytest.raises(_errors.HubClosedError):
                use()
    assert mine.closed


def test_what_is_no_doorbell() -> None:
    reader, writer = os.pipe()
    for wrong in (reader, writer):
        with pytest.raises((ValueError, OSError)):
            _core.Doorbell(wrong)
        os.fstat(wrong)  # still open: it was not taken
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match=str(reader)):
        _core.Doorbell(reader)
    with pytest.raises(ValueError, match=">= 0"):
        _core.Doorbell(-1)
    with pytest.raises(TypeError):
        _core.Doorbell("3")  # type: ignore[arg-type]


def test_a_doorbell_belongs_to_its_transport(pair: Pair) -> None:
    assert pair.doorbell.host is pair.host
    assert (pair.doorbell.peer_id, pair.doorbell.epoch) == (pair.peer_id, pair.epoch)
    with pytest.raises(_errors.PeerStateError):
        pair.doorbell.drain()
    other = Pair()
    for call in (other.host.close_peer_fd, lambda d: other.host.watch(d, 0)):
        with pytest.raises(ValueError, match="this host's"):
            call(pair.doorbell)
    with pytest.raises(ValueError, match="this host's"):
        _core.Transport(other.host, pair.doorbell, "x", False)
    other.close()
