"""Fast alloc and free by eight processes over every class; the counts are exact at the end."""

from __future__ import annotations

import random

import pytest

import shmhub
from tests.support import counts
from tests.support.environment import is_full_run
from tests.support.stage import Stage, small

PEERS = 8
SIZES = [64, 1024, 5000, 16 * 1024, 200_000, 256 * 1024, 1 << 20, 4 << 20, 10 << 20, 16 << 20]


def _rounds() -> int:
    return 200_000 if is_full_run() else 8_000


@pytest.mark.parametrize("wait", [False, True], ids=["trying", "waiting"])
def test_eight_processes_over_every_class(stage: Stage, rng: random.Random, wait: bool) -> None:
    host = stage.host(small())
    links = [stage.peer(host) for _ in range(PEERS)]
    pending = [
        link.agent.start(
            "alloc_free", sizes=SIZES, seed=rng.getrandbits(32), rounds=_rounds(), wait=wait
        )
        for link in links
    ]
    results = [each.result(patience=55) for each in pending]
    assert all(result["allocated"] for result in results), results
    counts.wait_all_free(host)
    counts.assert_full_capacity(links[0].transport, host)


@pytest.mark.parametrize("size", [1024, 16 * 1024, 256 * 1024, 4 << 20])
def test_eight_processes_over_one_class_with_fewer_slots_than_processes(
    stage: Stage, rng: random.Random, size: int
) -> None:
    host = stage.host(small_one_class(size, slots=3))
    links = [stage.peer(host) for _ in range(PEERS)]
    pending = [
        link.agent.start(
            "alloc_free",
            sizes=[size],
            seed=rng.getrandbits(32),
            rounds=_rounds() // 8,
            most_held=1,
            wait=True,
        )
        for link in links
    ]
    for each in pending:
        assert each.result(patience=55)["allocated"] > 0
    counts.assert_full_capacity(links[0].transport, host)


def small_one_class(size: int, slots: int) -> shmhub.HubConfig:
    from tests.support.stage import fixed

    return fixed((size, slots))


def test_the_host_allocates_beside_its_peers(stage: Stage, rng: random.Random) -> None:
    host = stage.host(small())
    links = [stage.peer(host) for _ in range(4)]
    pending = [
        link.agent.start("alloc_free", sizes=SIZES[:6], seed=rng.getrandbits(32), rounds=_rounds())
        for link in links
    ]
    transport = links[0].transport
    taken = 0
    while not all(each.done() for each in pending):
        try:
            with transport.alloc_nowait(rng.choice(SIZES[:6])) as slot:
                slot.write(b"mine")
                taken += 1
        except shmhub.SlotsExhaustedError:
            continue
    for each in pending:
        each.result()
    assert taken
    counts.assert_full_capacity(transport, host)


def test_trim_beside_live_allocation_loses_nothing(stage: Stage, rng: random.Random) -> None:
    host = stage.host(small())
    links = [stage.peer(host) for _ in range(3)]
    pending = [
        link.agent.start("alloc_free", sizes=SIZES, seed=rng.getrandbits(32), rounds=_rounds() // 2)
        for link in links
    ]
    trimmed = 0
    while not all(each.done() for each in pending):
        trimmed += host.trim()
    for each in pending:
        each.result()
    assert trimmed > 0
    counts.assert_full_capacity(links[0].transport, host)
