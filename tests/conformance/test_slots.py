"""Slots: a piece of the hub's memory that is filled, sent, resized and given back."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import shmhub
from tests.support import patterns
from tests.support.environment import BRIEF, PATIENCE
from tests.support.sides import Pair


@pytest.mark.parametrize("nbytes", [1, 100, 1024, 1025, 16384, 1 << 20])
def test_a_slot_has_the_size_asked_for_in_the_class_that_fits(pair: Pair, nbytes: int) -> None:
    slot = pair.side.alloc(nbytes)
    assert len(slot) == slot.size == nbytes
    assert slot.capacity == min(c for c in (1024, 16384, 1 << 20) if c >= nbytes)
    assert slot.size_class == [1024, 16384, 1 << 20].index(slot.capacity)
    with pair.side.alloc(nbytes) as another:
        assert slot.reference != another.reference
    with memoryview(slot) as view:
        assert (view.nbytes, view.readonly, view.contiguous) == (nbytes, False, True)
    slot.release()
    slot.release()


def test_what_is_written_is_what_arrives(pair: Pair) -> None:
    slot = pair.side.alloc(5000)
    payload = patterns.make(5000, 2, 6)
    slot.write(payload[:3000])
    slot.write(payload[3000:], 3000)
    pair.side.send(slot)
    assert pair.other("recv", timeout=PATIENCE)[0]["sequence"] == 6


def test_a_sent_slot_is_no_longer_ours(pair: Pair) -> None:
    slot = pair.side.alloc(500)
    slot.write(b"s" * 500)
    pair.side.send(slot)
    uses: list[Any] = [
        lambda: slot.write(b"x"),
        lambda: slot.resize(10),
        lambda: memoryview(slot),
        lambda: pair.side.send(slot),
        lambda: pair.side.send_nowait(slot),
    ]
    for use in uses:
        with pytest.raises((shmhub.ShmhubError, ValueError, BufferError)):
            use()
    slot.release()
    assert pair.other("recv_bytes", timeout=PATIENCE) == b"s" * 500


def test_a_slot_in_a_with_block_is_given_back_unless_it_was_sent(pair: Pair) -> None:
    with pair.side.alloc(500) as slot:
        slot.write(b"kept")
    with pytest.raises((shmhub.ShmhubError, ValueError)):
        slot.write(b"x")
    with pair.side.alloc(500) as slot:
        slot.write(patterns.make(500, 0, 3))
        pair.side.send(slot)
    assert pair.other("recv", timeout=PATIENCE)[0]["sequence"] == 3


def test_resizing_within_the_capacity(pair: Pair) -> None:
    with pair.side.alloc(10) as slot:
        slot.resize(1024)
        assert len(slot) == 1024
        slot.write(patterns.make(1024, 0, 1))
        slot.resize(700)
        slot.write(patterns.make(700, 0, 2))
        pair.side.send(slot)
    received = pair.other("recv", timeout=PATIENCE)[0]
    assert (received["length"], received["sequence"]) == (700, 2)
    with pair.side.alloc(10) as slot:
        for wrong in (1025, -1, 1 << 40):
            with pytest.raises((ValueError, OverflowError)):
                slot.resize(wrong)
        assert len(slot) == 10


def test_writes_beyond_the_end_are_refused(pair: Pair) -> None:
    with pair.side.alloc(100) as slot:
        for data, offset in ((b"x" * 101, 0), (b"x", 100), (b"x", -1), (b"x", 1 << 62)):
            with pytest.raises((ValueError, IndexError, OverflowError)):
                slot.write(data, offset)
        slot.write(b"", 100)
        slot.write(b"x" * 100)


def test_a_slot_with_a_live_view_cannot_be_sent(pair: Pair) -> None:
    slot = pair.side.alloc(500)
    array = np.frombuffer(slot, np.uint8)
    with pytest.raises(BufferError, match="view"):
        pair.side.send(slot)
    array[:] = np.frombuffer(patterns.make(500, 0, 5), np.uint8)
    del array
    gc.collect()
    pair.side.send(slot)
    assert pair.other("recv", timeout=PATIENCE)[0]["sequence"] == 5


def test_allocations_that_make_no_sense(pair: Pair) -> None:
    for call in (pair.side.alloc, pair.side.alloc_nowait):
        with pytest.raises((ValueError, OverflowError)):
            call(-1)
        with pytest.raises(TypeError):
            call("many")
        with pytest.raises(shmhub.PayloadTooLargeError):
            call((1 << 20) + 1)
        with pytest.raises((ValueError, OverflowError)):
            call(1 << 70)


def test_an_empty_pool_is_told_waited_for_and_woken_from(pair: Pair) -> None:
    pair.other("alloc_until_exhausted", nbytes=16384)
    with pytest.raises(shmhub.SlotsExhaustedError):
        pair.side.alloc_nowait(16384)
    with pytest.raises(shmhub.SlotsExhaustedError):
        pair.side.send_nowait(bytes(16384))
    for timeout in (0, BRIEF):
        with pytest.raises(shmhub.HubTimeoutError):
            pair.side.alloc(16384, timeout=timeout)
        with pytest.raises(shmhub.HubTimeoutError):
            pair.side.send(bytes(16384), timeout=timeout)
    pending = pair.other_when_asleep("release_via")
    with pair.side.alloc(16384, timeout=PATIENCE) as slot:
        assert slot.capacity >= 16384
    pending.result()
    pair.other("alloc_until_exhausted", nbytes=16384)
    pending = pair.other_when_asleep("release_via")
    pair.side.send(bytes(16384), timeout=PATIENCE)
    pending.result()
    assert pair.other("recv_bytes", timeout=PATIENCE) == bytes(16384)


def test_slots_cross_between_the_transports_of_one_hub_only(pair: Pair) -> None:
    """A slot of another hub is an ordinary buffer or an error, never a wrong reference."""
    with shmhub.HubHost.create() as host:
        info = host.add_peer()
        with (
            shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell) as other,
            other.alloc(700) as slot,
        ):
            slot.write(patterns.make(700, 4, 4))
            try:
                pair.side.send(slot)
            except (shmhub.ShmhubError, ValueError, TypeError):
                return
            received = pair.other("recv", timeout=PATIENCE)[0]
            assert (received["sender"], received["sequence"]) == (4, 4)
