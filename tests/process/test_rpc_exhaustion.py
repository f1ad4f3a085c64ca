"""No deadlock on slots or rings: the smallest hubs, more calls than slots, both sides at once.

Each of these ends by progress: with values that are right, and every slot free afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import shmhub
from shmhub._rpc import Link
from shmhub._rpc import _wire as wire
from shmhub.testing import exhausted
from tests.support.environment import BRIEF, PATIENCE
from tests.support.rpc import Rig, soon
from tests.support.stage import Stage, fixed

SMALLEST = fixed((16 << 10, 1), ring_capacity=8, max_peers=3)
FEW = fixed((1024, 2), (64 << 10, 2), ring_capacity=8, max_peers=4)


@pytest.fixture(params=[SMALLEST, FEW], ids=["one slot", "two of each"])
def rig(stage: Stage, request: pytest.FixtureRequest) -> Rig:
    made = Rig(stage, request.param)
    made.callback(lambda value: value, "back")
    made.start()
    return made


def all_free(rig: Rig, link: Link) -> None:
    deadline = soon()
    while link.in_flight or rig.held():
        assert time.monotonic() < deadline, (link.in_flight, rig.host.statistics().size_classes)
        link.ping(deadline)


def in_threads(count: int, work: Any) -> list[BaseException]:
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(one,)) for one in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "a call hangs"
    return errors


@pytest.mark.time_limit(240)
def test_more_calls_than_slots(rig: Rig) -> None:
    link = rig.plugin()

    def work(number: int) -> None:
        for turn in range(5):
            value = bytes([number]) * (3000 + turn)
            assert link.call("echo", (value,), deadline=soon()) == value

    assert in_threads(6, work) == []
    all_free(rig, link)


@pytest.mark.time_limit(240)
def test_calls_in_flight_fill_slots_and_ring(rig: Rig) -> None:
    link = rig.plugin()
    values = [bytes([number]) * 2000 for number in range(40)]
    calls = [link.begin("echo", (value,)) for value in values]
    for call, value in zip(calls, values, strict=True):
        assert call.wait(soon())
        assert call.result() == value
    del call, calls
    all_free(rig, link)


@pytest.mark.time_limit(240)
def test_results_that_are_kept_do_not_starve_the_next(rig: Rig) -> None:
    link = rig.plugin()
    kept = [link.call("echo", (memoryview(bytes([n]) * 5000),), deadline=soon()) for n in range(9)]
    assert [bytes(one[:1]) for one in kept] == [bytes([n]) for n in range(9)]
    assert {len(one) for one in kept} == {5000}
    kept.clear()
    all_free(rig, link)


@pytest.mark.time_limit(240)
def test_somebody_else_has_all_slots(rig: Rig) -> None:
    """Values go in parts through the ring then."""
    link = rig.plugin()
    transport = rig.engine.transport
    taken = []
    with pytest.raises(shmhub.SlotsExhaustedError):
        while True:
            taken.append(transport.alloc_nowait(500))
    value = bytes(range(256)) * 40
    assert link.call("echo", (value,), deadline=soon()) == value
    assert link.call("ask", ("back", value), deadline=soon()) == value
    with pytest.raises(ValueError, match="long"):
        link.call("fail", ("ValueError", "long " * 500), deadline=soon())
    taken.clear()
    all_free(rig, link)


@pytest.mark.time_limit(240)
def test_parts_of_two_streams_of_one_call_are_not_mixed(rig: Rig) -> None:
    link = rig.plugin()
    taken = []
    with pytest.raises(shmhub.SlotsExhaustedError):
        while True:
            taken.append(rig.engine.transport.alloc_nowait(500))

    def items(first: int) -> Iterator[bytes]:
        for number in range(first, first + 4):
            yield bytes([number]) * 12000

    pairs = link.call("lockstep", (items(10), items(20)), deadline=soon())
    assert pairs == [(bytes([10 + n]), bytes([20 + n])) for n in range(4)]
    taken.clear()
    all_free(rig, link)


def test_parts_that_nobody_waits_for_are_not_kept(rig: Rig) -> None:
    link = rig.plugin()
    result, call = wire.RESULT & 0xFF, wire.CALL & 0xFF
    link.call("parts", (link.life | 1 << 39, result, 100, 1000), deadline=soon())
    assert not link.parts._asked
    link.call("odd_parts", (300,), deadline=soon())  # while that call is open
    assert [len(one) for one in link.parts._asked.values()] == [90, 90]  # a RESULT, an ERROR
    link.call("parts", (1 << 39 | wire.FROM_PEER, call, 1500, 500), deadline=soon())
    link.ping(soon())
    assert len(link.parts._unasked) == 1000
    assert link.call("echo", (1,), deadline=soon()) == 1


@pytest.mark.time_limit(240)
def test_both_sides_call_each_other(rig: Rig) -> None:
    link = rig.plugin(threads=3)

    def work(number: int) -> None:
        value = bytes([number]) * 2500
        for _ in range(4):
            assert link.call("ask", ("back", value), deadline=soon()) == value

    assert in_threads(5, work) == []
    all_free(rig, link)


@pytest.mark.time_limit(240)
def test_two_plugins_stream_into_each_other_with_slow_readers(rig: Rig) -> None:
    first, second = rig.plugin("first"), rig.plugin("second")
    source = first.open_stream("count", (30, 4000), deadline=soon())
    assert second.call("sizes", (source,), deadline=soon()) == [4000] * 30

    def slow(items: Any) -> Iterator[Any]:
        for item in items:
            time.sleep(0.001)
            yield item

    source = first.open_stream("count", (30, 4000), deadline=soon())
    assert second.call("sizes", (slow(source),), deadline=soon()) == [4000] * 30
    del source
    for link in (first, second):
        all_free(rig, link)


@pytest.mark.time_limit(240)
def test_a_call_to_a_stopped_plugin_ends_by_its_deadline(rig: Rig) -> None:
    import os
    import signal

    link = rig.plugin("stopped")
    other = rig.plugin("other")
    os.kill(link.process.pid, signal.SIGSTOP)  # type: ignore[attr-defined]

    def work(number: int) -> None:
        with pytest.raises(shmhub.HubTimeoutError):
            link.call("echo", (bytes(3000),), deadline=time.monotonic() + 6 * BRIEF)

    assert in_threads(12, work) == []
    # It may hold every slot by now; the others go on nevertheless.
    value = bytes(2000)
    assert other.call("echo", (value,), deadline=soon()) == value
    os.kill(link.process.pid, signal.SIGCONT)  # type: ignore[attr-defined]
    assert link.call("echo", (value,), deadline=soon()) == value
    for one in (link, other):
        all_free(rig, one)


@pytest.mark.time_limit(240)
def test_a_flood_of_callbacks_is_refused_and_hurts_nobody(rig: Rig) -> None:
    gate = threading.Event()
    rig.callback(lambda: gate.wait(PATIENCE), "blocks")
    rig.engine.callbacks_changed()
    link, other = rig.plugin("flood"), rig.plugin("other")
    try:
        refused = link.call("flood", ("blocks", 3000), deadline=soon())
        assert refused > 0
        assert other.call("echo", (1,), deadline=soon()) == 1
    finally:
        gate.set()
    all_free(rig, link)


def test_an_answer_whose_parts_were_lost_is_an_error(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = rig.plugin()
    all_free(rig, link)
    monkeypatch.setattr(link.parts, "add", lambda *_, **__: False)
    with exhausted(rig.host, transport=rig.engine.transport):
        call = link.begin("size", (10_000,))
        assert call.wait(soon())
        with pytest.raises(shmhub.CodecError, match="parts of its answer were lost"):
            call.result()
        with pytest.raises(shmhub.CodecError, match="parts of its answer were lost"):
            link.call("size", (10_000,), deadline=soon())
    assert link.call("size", (10_000,), deadline=soon()) == bytes(10_000)


def test_a_deadline_that_passes_before_there_is_a_slot_is_a_time_out(rig: Rig) -> None:
    link = rig.plugin()
    all_free(rig, link)
    encoded, _ = link.encode((bytes(10_000),), None)
    with (
        exhausted(rig.host, transport=rig.engine.transport),
        pytest.raises(shmhub.HubTimeoutError),
    ):
        link.put(wire.CALL, encoded, 0, encoded.flags, 1, time.monotonic() - 1, True)
