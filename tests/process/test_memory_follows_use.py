"""A hub costs what is used of it: backing, growth, jumbo payloads, caps and giving memory back."""

from __future__ import annotations

import os
from typing import Any

import pytest

import shmhub
from tests.support import counts
from tests.support.environment import BRIEF, PATIENCE
from tests.support.stage import Stage, fixed

_MIB = 1 << 20
_TABLE = ((1024, 1024), (16 * 1024, 256), (256 * 1024, 32), (4 * _MIB, 8), (16 * _MIB, 4))


def _memory(host: shmhub.HubHost) -> int:
    return int(host.statistics().memory_bytes)


def test_a_new_default_hub_costs_less_than_two_mebibytes(stage: Stage) -> None:
    host = stage.host(shmhub.HubConfig())
    assert 0 < _memory(host) < 2 * _MIB
    assert os.fstat(host.fileno()).st_blocks * 512 == _memory(host)


def test_without_growth_the_file_is_as_long_as_the_table_says(stage: Stage) -> None:
    host = stage.host(fixed(*_TABLE))
    assert 109 * _MIB <= os.fstat(host.fileno()).st_size <= 116 * _MIB


@pytest.mark.parametrize("nbytes", [5000, 100_000, 3 * _MIB, 9 * _MIB])
def test_only_the_part_that_is_asked_for_is_backed(stage: Stage, nbytes: int) -> None:
    host = stage.host(fixed((16 * _MIB, 4)))
    link = stage.peer(host)
    before = _memory(host)
    with link.transport.alloc(nbytes) as slot:
        slot.write(b"x" * nbytes)
        assert nbytes <= _memory(host) - before <= nbytes + 64 * 1024


def test_a_resized_slot_is_backed_as_far_as_it_is_used(stage: Stage) -> None:
    host = stage.host(fixed((16 * _MIB, 4)))
    link = stage.peer(host)
    with link.transport.alloc(1000) as slot:
        slot.resize(10 * _MIB)
        slot.write(b"end", 10 * _MIB - 3)
        link.transport.send(slot)
    assert link.agent.call("recv_raw", timeout=PATIENCE) == 10 * _MIB


def test_trim_gives_back_everything_that_is_free(stage: Stage) -> None:
    host = stage.host(fixed(*_TABLE))
    link = stage.peer(host)
    before = _memory(host)
    slots = [link.transport.alloc(4 * _MIB) for _ in range(8)]
    kept = slots.pop()
    kept.write(b"kept" * _MIB)
    for slot in slots:
        slot.release()
    used = _memory(host)
    assert used >= before + 32 * _MIB
    given_back = host.trim()
    assert given_back >= 28 * _MIB
    assert _memory(host) <= used - 28 * _MIB
    with memoryview(kept) as view:
        assert view[: 4 * _MIB] == b"kept" * _MIB
    kept.release()
    host.trim()
    assert _memory(host) <= before + 64 * 1024
    counts.assert_full_capacity(link.transport, host)


def test_a_class_grows_up_to_its_limit_and_no_further(stage: Stage) -> None:
    config = shmhub.HubConfig(size_classes=(shmhub.SizeClass(65536, 2, 7),))
    host = stage.host(config)
    link = stage.peer(host)
    assert link.agent.call("alloc_until_exhausted", nbytes=65536) == [65536] * 7
    (entry,) = host.statistics().size_classes
    assert (entry.slots, entry.owned, entry.max_slots) == (7, 7, 7)
    link.agent.call("release")
    counts.wait_all_free(host)


def test_growth_by_several_processes_at_once(stage: Stage) -> None:
    config = shmhub.HubConfig(size_classes=(shmhub.SizeClass(4096, 1, 200),), max_peers=8)
    host = stage.host(config)
    links = [stage.peer(host) for _ in range(5)]
    pending = [link.agent.start("alloc_until_exhausted", nbytes=4096) for link in links]
    assert sum(len(each.result()) for each in pending) == 200
    for link in links:
        link.agent.call("release")
    counts.wait_all_free(host)


@pytest.mark.parametrize("mebibytes", [20, 64, 100])
def test_jumbo_payloads(stage: Stage, mebibytes: int) -> None:
    host = stage.host(shmhub.HubConfig())
    link = stage.peer(host)
    size = mebibytes * _MIB
    echo = link.agent.start("echo", count=2)
    before = _memory(host)
    for _ in range(2):
        slot = link.transport.alloc(size, timeout=PATIENCE)
        with memoryview(slot) as view:
            view[:16], view[-16:] = b"beginning of it.", b"the end of it..."
        link.transport.send(slot, timeout=PATIENCE)
        with link.transport.recv(timeout=PATIENCE) as frame:
            assert len(frame) == size
            assert bytes(frame.payload[:16]) == b"beginning of it."
            assert bytes(frame.payload[-16:]) == b"the end of it..."
            # It went through one slot, there and back: nothing was copied into another.
            assert _memory(host) - before < size + 2 * _MIB
    echo.result()
    counts.wait_all_free(host)
    host.trim()
    assert _memory(host) < before + _MIB


def test_a_cap_is_kept_by_trimming_and_then_by_refusing(stage: Stage) -> None:
    config = fixed((65536, 256), (_MIB, 32), (8 * _MIB, 4), max_bytes=12 * _MIB)
    host = stage.host(config)
    link = stage.peer(host)
    with pytest.raises(shmhub.SlotsExhaustedError):
        held = []
        while True:
            held.append(link.transport.alloc_nowait(_MIB))
    assert 8 <= len(held) <= 12
    assert _memory(host) <= 13 * _MIB
    with pytest.raises(shmhub.HubTimeoutError):
        link.transport.alloc(_MIB, timeout=BRIEF)
    for slot in held:
        slot.release()
    del held, slot
    # The memory of free slots makes way for a larger one.
    with link.transport.alloc(8 * _MIB, timeout=PATIENCE) as big:
        big.write(b"x" * 8 * _MIB)
        assert _memory(host) <= 13 * _MIB
    counts.wait_all_free(host)


def test_more_than_the_cap_can_ever_hold_is_refused_at_once(stage: Stage) -> None:
    host = stage.host(fixed((_MIB, 4), (64 * _MIB, 2), max_bytes=16 * _MIB))
    link = stage.peer(host)
    calls: list[Any] = [
        lambda: link.transport.alloc(32 * _MIB),
        lambda: link.transport.alloc_nowait(32 * _MIB),
        lambda: link.transport.send(bytes(32 * _MIB)),
    ]
    for call in calls:
        with pytest.raises(shmhub.PayloadTooLargeError):
            call()


def test_waiting_at_the_cap_is_woken_by_what_another_process_gives_back(stage: Stage) -> None:
    host = stage.host(fixed((_MIB, 32), max_bytes=8 * _MIB))
    holder, waiter = stage.peer(host), stage.peer(host)
    taken = holder.agent.call("alloc_until_exhausted", nbytes=_MIB)
    assert 4 <= len(taken) <= 8
    pending = waiter.agent.start("alloc", nbytes=_MIB).wait_asleep()
    holder.agent.call("release")
    assert len(pending.result()) == 1


def test_what_a_dead_peer_had_backed_is_given_back(stage: Stage) -> None:
    host = stage.host(fixed(*_TABLE))
    before = _memory(host)
    link = stage.peer(host)
    link.agent.call("alloc", nbytes=16 * _MIB, count=2)
    assert _memory(host) >= before + 32 * _MIB
    link.kill()
    counts.wait_all_free(host)
    host.trim()
    # The peer's own rings stay: its id will be used again.
    assert _memory(host) <= before + 256 * 1024


def test_the_default_hub_serves_every_class_it_has(stage: Stage) -> None:
    host = stage.host(shmhub.HubConfig())
    link = stage.peer(host)
    assert [c.slot_size for c in host.statistics().size_classes][:5] == [s for s, _ in _TABLE]
    for size, _slots in _TABLE:
        link.transport.send(bytes(size))
        assert link.agent.call("recv_raw", timeout=PATIENCE) == size
    counts.wait_all_free(host)
