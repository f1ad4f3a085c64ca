"""Each class run empty, alone and all together: spill, wait, timeout, wake-up, everyone served."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import shmhub
from tests.support import counts, patterns
from tests.support.environment import BRIEF, PATIENCE
from tests.support.stage import Link, Stage, fixed, small

CLASSES = [1024, 16 * 1024, 256 * 1024, 4 << 20, 16 << 20]


@contextmanager
def _all_taken(transport: Any, host: shmhub.HubHost, *, above: int = 0) -> Iterator[list[Any]]:
    """Every slot of all classes larger than ``above`` is held by this process."""
    taken = []
    for entry in sorted(counts.pool(host), key=lambda entry: -entry.slot_size):
        if entry.slot_size > above:
            taken += [transport.alloc_nowait(entry.slot_size) for _ in range(entry.free)]
    try:
        yield taken
    finally:
        # Smallest first: each waiter then finds its own class before a larger one, which another
        # may need, comes free.
        for slot in reversed(taken):
            slot.release()


@pytest.mark.parametrize("size", CLASSES)
def test_a_class_alone_gives_exactly_its_slots_and_then_says_so(stage: Stage, size: int) -> None:
    host = stage.host(fixed((size, 3)))
    link = stage.peer(host)
    for _round in range(3):
        assert link.agent.call("alloc_until_exhausted", nbytes=size) == [size] * 3
        with pytest.raises(shmhub.SlotsExhaustedError):
            link.transport.alloc_nowait(size)
        with pytest.raises((shmhub.SlotsExhaustedError, shmhub.WouldBlockError)):
            link.transport.send_nowait(b"x" * min(size, 1000))
        with pytest.raises(shmhub.HubTimeoutError):
            link.transport.alloc(size, timeout=BRIEF)
        with pytest.raises(shmhub.HubTimeoutError):
            link.transport.send(b"x" * min(size, 1000), timeout=BRIEF)
        assert link.agent.call("release") == 3
        counts.wait_all_free(host)
    assert host.statistics().size_classes[0].exhausted_count > 0


def test_an_empty_class_spills_into_the_next_larger_one(stage: Stage) -> None:
    host = stage.host(small())
    link = stage.peer(host)
    expected = [entry.slot_size for entry in counts.pool(host) for _ in range(entry.slots)]
    assert link.agent.call("alloc_until_exhausted", nbytes=1000) == expected
    assert counts.total(host, "free") == 0
    link.agent.call("release")
    counts.wait_all_free(host)


@pytest.mark.parametrize("index", range(len(CLASSES)))
def test_smaller_classes_do_not_help_larger_requests(stage: Stage, index: int) -> None:
    host = stage.host(small())
    link = stage.peer(host)
    with _all_taken(link.transport, host, above=CLASSES[index] - 1):
        with pytest.raises((shmhub.SlotsExhaustedError, shmhub.WouldBlockError)):
            link.transport.alloc_nowait(CLASSES[index])
        if index:
            with link.transport.alloc_nowait(CLASSES[index - 1]) as slot:
                assert slot.capacity == CLASSES[index - 1]


def test_what_no_slot_can_ever_hold_is_refused_without_waiting(stage: Stage) -> None:
    host = stage.host(small())
    link = stage.peer(host)
    for call in (
        lambda: link.transport.alloc((16 << 20) + 1),
        lambda: link.transport.send(bytes((16 << 20) + 1)),
        lambda: link.agent.call("alloc", nbytes=(16 << 20) + 1),
    ):
        with pytest.raises(shmhub.PayloadTooLargeError) as failure:
            call()
        assert str((16 << 20) + 1) in str(failure.value), failure.value


def test_small_messages_pass_while_the_pool_is_empty(stage: Stage) -> None:
    host = stage.host(small())
    link = stage.peer(host)
    with _all_taken(link.transport, host):
        for size in (0, 1, 16, 17, 240):
            link.transport.send_nowait(patterns.make(size))
            assert link.agent.call("recv", timeout=10)[0]["length"] == size


@pytest.mark.parametrize("size", CLASSES)
def test_a_peer_is_woken_by_the_free_of_the_host(stage: Stage, size: int) -> None:
    host = stage.host(fixed((size, 2)))
    link = stage.peer(host)
    held = [link.transport.alloc(size) for _ in range(2)]
    pending = link.agent.start("alloc", nbytes=size).wait_asleep()
    held.pop().release()
    assert len(pending.result()) == 1
    link.agent.call("release")
    held.pop().release()
    counts.wait_all_free(host)


@pytest.mark.parametrize("size", [1024, 256 * 1024])
def test_a_peer_is_woken_by_the_free_of_another_peer(stage: Stage, size: int) -> None:
    host = stage.host(fixed((size, 2)))
    holder, waiter = stage.peer(host), stage.peer(host)
    holder.agent.call("alloc", nbytes=size, count=2)
    for verb in ("alloc", "send"):
        arguments = {"nbytes": size} if verb == "alloc" else {"size": size}
        pending = waiter.agent.start(verb, **arguments).wait_asleep()
        holder.agent.call("release")
        pending.result()
        if verb == "send":
            waiter.transport.recv(timeout=PATIENCE).release()
        waiter.agent.call("release")
        holder.agent.call("alloc", nbytes=size, count=2)


def test_the_host_is_woken_by_the_free_of_a_peer(stage: Stage) -> None:
    host = stage.host(fixed((1024, 2)))
    link = stage.peer(host)
    for _round in range(20):
        link.agent.call("alloc", nbytes=1024, count=2)
        pending = link.agent.start("release")
        with link.transport.alloc(1000, timeout=PATIENCE) as slot:
            assert slot.capacity == 1024
        pending.result()
    counts.wait_all_free(host)


def test_a_receiver_that_releases_a_frame_wakes_the_sender(stage: Stage) -> None:
    host = stage.host(fixed((1024, 1)))
    link = stage.peer(host)
    link.transport.send(patterns.make(1000))
    frame = link.agent.call("recv", hold=True, timeout=10)[0]
    assert frame["length"] == 1000
    pending = link.agent.start("send", thread=True, size=1000).wait_asleep()
    link.agent.call("release")
    pending.result()
    link.transport.recv(timeout=PATIENCE).release()


def test_the_death_of_a_holder_wakes_who_waits(stage: Stage) -> None:
    host = stage.host(fixed((1024, 4)))
    holder, waiter = stage.peer(host), stage.peer(host)
    holder.agent.call("alloc", nbytes=1024, count=4)
    pending = waiter.agent.start("alloc", nbytes=1024, count=4).wait_asleep()
    holder.kill()
    assert len(pending.result()) == 4


@pytest.mark.parametrize("slots", [1, 3])
def test_eight_waiters_are_all_served(stage: Stage, slots: int) -> None:
    host = stage.host(fixed((1024, slots)))
    owner = stage.peer(host)
    waiters = [stage.peer(host) for _ in range(8)]
    for _round in range(5):
        held = [owner.transport.alloc(1024) for _ in range(slots)]
        pending = [_start_waiter(waiter) for waiter in waiters]
        for each in pending:
            each.wait_asleep()
        for slot in held:
            slot.release()
        for each in pending:
            assert each.result() == {"allocated": 1, "exhausted": 0}
        counts.wait_all_free(host)


def _start_waiter(waiter: Link) -> Any:
    """Takes one slot, waiting for it, and gives it back: then the next waiter must get it."""
    return waiter.agent.start("alloc_free", sizes=[1024], seed=1, rounds=1, most_held=1, wait=True)


def test_waiters_of_different_classes_are_all_served(stage: Stage) -> None:
    host = stage.host(small())
    owner = stage.peer(host)
    waiters = [stage.peer(host) for _ in CLASSES]
    with _all_taken(owner.transport, host):
        pending = [
            waiter.agent.start("alloc", nbytes=size)
            for waiter, size in zip(waiters, CLASSES, strict=True)
        ]
        for each in pending:
            each.wait_asleep()
    for each in pending:
        assert len(each.result()) == 1


def test_an_asyncio_waiter_of_the_host_is_served(stage: Stage) -> None:
    host = stage.host(fixed((1024, 1)))
    info = host.add_peer()
    agent = stage.agent()
    stage.attach(host, info, agent)

    async def main() -> None:
        transport = shmhub.aio.HubHostPeerTransport(host, info.peer_id, info.doorbell)
        async with transport:
            agent.call("alloc", nbytes=1024)
            tasks = [asyncio.create_task(transport.alloc(1000)) for _ in range(3)]
            await asyncio.sleep(BRIEF)
            assert not any(task.done() for task in tasks)
            pending = agent.start("release")
            for task in asyncio.as_completed(tasks, timeout=PATIENCE):
                (await task).release()
            pending.result()

    asyncio.run(main())
    counts.wait_all_free(host)


def test_a_timed_out_waiter_does_not_eat_the_wake_up_of_another(stage: Stage) -> None:
    host = stage.host(fixed((1024, 1)))
    holder, short, patient = (stage.peer(host) for _ in range(3))
    holder.agent.call("alloc", nbytes=1024)
    waits = patient.agent.start("alloc", nbytes=1024).wait_asleep()
    for _round in range(5):
        with pytest.raises(shmhub.HubTimeoutError):
            short.agent.call("alloc", nbytes=1024, timeout=BRIEF)
    holder.agent.call("release")
    assert len(waits.result()) == 1


def test_a_killed_waiter_does_not_eat_the_wake_up_of_another(stage: Stage) -> None:
    host = stage.host(fixed((1024, 1)))
    holder, doomed, patient = (stage.peer(host) for _ in range(3))
    holder.agent.call("alloc", nbytes=1024)
    doomed.agent.start("alloc", nbytes=1024).wait_asleep()
    waits = patient.agent.start("alloc", nbytes=1024).wait_asleep()
    doomed.kill()
    holder.agent.call("release")
    assert len(waits.result()) == 1
