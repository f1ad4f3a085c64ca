"""Arrays without a pickle; and a result that stays in the slot of the argument that it is."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from shmhub import CodecError, _core
from shmhub._rpc import _wire as wire
from shmhub._rpc._codec import get_codec, make_array
from shmhub._rpc._payload import Encoded, decode, encode, private
from tests.unit.core_pair import INLINE, Pair

PICKLE = get_codec("pickle")
PLAIN = get_codec("plain")
SIZE = 200_000  # bytes of an array: a slot of 1 MiB, with room for another one


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def received(pair: Pair, value: Any) -> _core.Frame:
    """The frame of that value, at the far end."""
    encoded = encode(value, PICKLE)
    slot = pair.near.alloc(encoded.size)
    encoded.write(slot)
    pair.near.send(slot, flags=encoded.flags)
    return pair.far.recv(timeout=5)


def sent_back(pair: Pair, encoded: Encoded) -> Any:
    assert encoded.slot is not None
    pair.far.send(encoded.slot, flags=encoded.flags)
    frame = pair.near.recv(timeout=5)
    value = decode(frame, PICKLE)
    frame.release()
    return value


def array(size: int = SIZE, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


# ---- arrays --------------------------------------------------------------------------------------

OF_NUMBERS = [
    np.arange(100, dtype=code)
    for code in ("?", "b", "B", "h", "H", "i", "I", "q", "Q", "e", "f", "d", "g", "F", "D")
    if np.dtype(code).itemsize * 100 >= 256
] + [
    np.arange(1000).astype(">f8"),
    np.arange(1000).astype(">u2"),
    np.arange(24.0).reshape(2, 3, 4).repeat(10, 0),
    np.zeros((100, 1, 3), np.float32),
]


@pytest.mark.parametrize("value", OF_NUMBERS, ids=lambda one: f"{one.dtype.str}-{one.shape}")
def test_large_arrays_of_numbers_are_not_pickled(value: np.ndarray) -> None:
    encoded = encode((value, {"name": value.T.copy()}), PICKLE)
    assert not encoded.flags & wire.CODED
    args = _core.plain_decode(encoded.head, encoded.buffers, None, make_array)
    assert type(args[0]) is np.ndarray
    assert args[0].dtype == value.dtype
    assert args[0].dtype.str == value.dtype.str
    assert args[0].shape == value.shape
    assert args[0].tobytes() == value.tobytes()
    assert args[1]["name"].shape == value.T.shape


class Derived(np.ndarray):
    pass


@pytest.mark.parametrize(
    "value",
    [
        np.arange(10),  # short
        np.zeros((0, 5)),
        np.array(3.5),
        np.arange(1000)[::2],
        np.asfortranarray(np.arange(2000.0).reshape(40, 50)),
        np.array([None, "x"] * 200),
        np.array(["text"] * 200),
        np.array(["2026-01-01"] * 200, "datetime64[D]"),
        np.zeros(200, [("a", "i4"), ("b", "f8")]),
        np.zeros(200, np.dtype("f8", metadata={"unit": "m"})),
        np.arange(1000).view(Derived),
        np.ma.masked_array(np.arange(1000), mask=False),
    ],
    ids=lambda one: f"{type(one).__name__}-{one.dtype}-{one.shape}",
)
def test_other_arrays_are(value: np.ndarray) -> None:
    encoded = encode((value,), PICKLE)
    assert encoded.flags & wire.CODED
    (arrived,) = PICKLE.decode(encoded.head, encoded.buffers)
    assert type(arrived) is type(value)
    assert arrived.dtype == value.dtype
    assert np.array_equal(arrived, value)


def test_one_array_that_occurs_twice_arrives_as_one() -> None:
    value = array()
    encoded = encode((value, value), PICKLE)
    assert len(encoded.buffers) == 1
    first, second = PICKLE.decode(encoded.head, encoded.buffers)
    assert first is second


def test_a_plain_link_sends_and_takes_none(pair: Pair) -> None:
    with pytest.raises(CodecError, match="ndarray is not plain data"):
        encode((array(),), PLAIN)
    frame = received(pair, (array(),))
    with pytest.raises(CodecError, match="an array, which this link does not take"):
        decode(frame, PLAIN)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (b"|O", (4,)),
        (b"|V4", (4,)),
        (b"x", (4,)),
        (b"|u9", (4,)),
        (b"<i4,(2", (4,)),
        (b"\0i4", (4,)),
        (b"<i4", (4, 2)),
        (b"<i4", (2,)),
        (b"<i4", (1 << 63,)),
        (b"<i4", (1 << 40, 1 << 40)),
    ],
)
def test_an_array_that_cannot_be_is_an_error(dtype: bytes, shape: tuple[int, ...]) -> None:
    head = b"n" + bytes([len(dtype)]) + dtype + bytes([len(shape)])
    head += b"".join(one.to_bytes(8, "little") for one in shape) + bytes(4)
    with pytest.raises(ValueError, match=r"array|dtype|buffer|dimension"):
        _core.plain_decode(head, [bytes(16)], None, make_array)


def test_an_array_cut_short_is_an_error() -> None:
    whole = encode(array(), PICKLE).head
    for length in range(1, len(whole)):
        with pytest.raises(ValueError, match="not plain data"):
            _core.plain_decode(whole[:length], [bytes(SIZE)], None, make_array)


# ---- a frame's slot ------------------------------------------------------------------------------


def test_a_frame_gives_its_slot(pair: Pair) -> None:
    slot = pair.near.alloc(1000)
    slot.write(b"x" * 1000)
    reference = slot.reference
    pair.near.send(slot)
    frame = pair.far.recv(timeout=5)
    assert not frame.shown
    with memoryview(frame)[100:200] as view:
        assert frame.shown
        assert frame.place(view) == 100
        with pytest.raises(BufferError, match="views still show"):
            frame.take()
    assert frame.place(bytes(100)) is None
    held = pair.far.held
    taken = frame.take()
    assert pair.far.held < held
    assert taken.reference[:2] == reference[:2]
    assert bytes(taken) == b"x" * 1000
    assert frame.released
    with pytest.raises(ValueError, match="sent on"):
        frame.take()
    with pytest.raises(ValueError, match="sent on"):
        bytes(frame)
    assert pair.held() == 1
    taken.release()
    assert pair.held() == 0


def test_what_has_no_slot_to_give(pair: Pair) -> None:
    pair.near.send(INLINE)
    frame = pair.far.recv(timeout=5)
    with pytest.raises(ValueError, match="came inline"):
        frame.take()
    assert bytes(frame) == INLINE
    pair.near.send(bytes(1000))
    frame = pair.far.recv(timeout=5)
    frame.release()
    with pytest.raises(ValueError, match="released"):
        frame.take()


# ---- a result in its argument's slot -------------------------------------------------------------


def test_an_argument_that_is_the_result_is_not_copied(pair: Pair) -> None:
    value = array()
    frame = received(pair, (value, 5))
    (argument, _) = decode(frame, PICKLE)
    encoded = encode(argument, PICKLE)
    del argument
    encoded.settle_in(frame)
    assert pair.held() == 1
    assert np.array_equal(sent_back(pair, encoded), value)


def test_what_is_added_lies_behind_it(pair: Pair) -> None:
    value, more = array(), array(seed=2)
    frame = received(pair, (value,))
    (argument,) = decode(frame, PICKLE)
    encoded = encode({"same": argument, "more": more, "n": 1}, PICKLE)
    del argument
    encoded.settle_in(frame)
    back = sent_back(pair, encoded)
    assert np.array_equal(back["same"], value)
    assert np.array_equal(back["more"], more)
    assert back["n"] == 1


def test_the_beginning_of_an_argument(pair: Pair) -> None:
    value = array()
    frame = received(pair, (value,))
    (argument,) = decode(frame, PICKLE)
    encoded = encode(argument[:150_000], PICKLE)
    del argument
    encoded.settle_in(frame)
    assert np.array_equal(sent_back(pair, encoded), value[:150_000])


def test_a_small_result_does_not_keep_a_large_slot(pair: Pair) -> None:
    frame = received(pair, (array(),))
    (argument,) = decode(frame, PICKLE)
    encoded = encode(argument[:50_000], PICKLE)
    del argument
    encoded.settle_in(frame)
    assert encoded.slot is None


def test_what_somebody_keeps_is_copied_and_stays_as_it_was(pair: Pair) -> None:
    value = array()
    frame = received(pair, (value,))
    (kept,) = decode(frame, PICKLE)
    encoded = encode(kept, PICKLE)
    encoded.settle_in(frame)
    assert encoded.slot is None
    assert encoded.joined() == encode(value, PICKLE).joined()
    frame.release()
    assert np.array_equal(kept, value)


def test_a_message_that_lies_in_no_slot_has_none_to_give(pair: Pair) -> None:
    value = array()
    frame = private(received(pair, (value,)))
    (argument,) = decode(frame, PICKLE)
    encoded = encode(argument, PICKLE)
    encoded.settle_in(frame)
    assert encoded.slot is None
    assert encoded.joined() == encode(value, PICKLE).joined()


def test_a_frame_that_was_released_has_none_either(pair: Pair) -> None:
    frame = received(pair, (array(),))
    (argument,) = decode(frame, PICKLE)
    encoded = encode(argument, PICKLE)
    frame.release()
    assert frame.place(encoded.buffers[0]) is None
    encoded.settle_in(frame)
    assert encoded.slot is None
    assert encoded.joined() == encode(array(), PICKLE).joined()


@pytest.mark.parametrize(
    "choose",
    [
        lambda a, b: b,
        lambda a, b: (b, a),
        lambda a, b: (a, a[:1000]),
        lambda a, b: (a[1000:], b),
        lambda a, b: np.concatenate([a, b]),
        lambda a, b: (a, np.zeros(900_000, np.uint8)),  # does not fit
    ],
)
def test_what_lies_elsewhere_is_copied(pair: Pair, choose: Any) -> None:
    frame = received(pair, (array(), array(seed=2)))
    arguments = decode(frame, PICKLE)
    value = choose(*arguments)
    expected = encode(choose(*[one.copy() for one in arguments]), PICKLE).joined()
    encoded = encode(value, PICKLE)
    del arguments, value
    encoded.settle_in(frame)
    assert encoded.slot is None
    assert encoded.joined() == expected
    del encoded
    frame.release()
    gc.collect()
    assert pair.held() == 0


def test_both_arguments_in_their_order_stay_too(pair: Pair) -> None:
    first, second = array(), array(seed=2)
    frame = received(pair, (first, second))
    arguments = decode(frame, PICKLE)
    encoded = encode(arguments, PICKLE)
    del arguments
    encoded.settle_in(frame)
    back = sent_back(pair, encoded)
    assert np.array_equal(back[0], first)
    assert np.array_equal(back[1], second)


def test_an_array_where_there_is_no_numpy_says_so(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = received(pair, (array(),))
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(CodecError, match="numpy is not installed here"):
        decode(frame, PICKLE)
