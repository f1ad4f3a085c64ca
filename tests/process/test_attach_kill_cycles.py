"""500 lives of few ids: descriptors, slots and memory are in the end what they were."""

from __future__ import annotations

import gc
import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import shmhub
from tests.support import counts, leaks, patterns
from tests.support.environment import PATIENCE, is_full_run
from tests.support.nursery import Nursery
from tests.support.stage import Stage, small

_MIB = 1 << 20


def _cycles() -> int:
    return 5000 if is_full_run() else 500


@contextmanager
def _life(nursery: Nursery) -> Iterator[Stage]:
    """A stage for one life, so that the tests' own book-keeping does not grow."""
    stage = Stage(nursery)
    try:
        yield stage
    finally:
        stage.close()


@pytest.fixture
def _no_log_records() -> Iterator[None]:
    """pytest keeps every record of a test, which would look like growth."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def _one_life(stage: Stage, host: shmhub.HubHost, rng: random.Random) -> None:
    info = host.add_peer("short-lived")
    with shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
        agent = stage.agent()
        stage.attach(host, info, agent)
        agent.call("alloc", nbytes=rng.choice([1000, 20_000]))
        transport.send(patterns.make(rng.choice([10, 200, 1000, 20_000])))
        agent.call("send", count=1, size=500)
        if rng.random() < 0.5:
            agent.call("recv", timeout=PATIENCE, hold=True)
        if rng.random() < 0.2:
            agent.leave()
        else:
            agent.kill()
        with transport.recv(timeout=PATIENCE) as frame:
            assert len(frame.payload) == 500
        with pytest.raises(shmhub.PeerGoneError):
            transport.recv(timeout=PATIENCE)


def _descriptors() -> int:
    return len(leaks.open_descriptors(os.getpid()))


@pytest.mark.time_limit(300)
@pytest.mark.usefixtures("_no_log_records")
def test_ids_are_used_again_and_nothing_grows(
    stage: Stage, nursery: Nursery, rng: random.Random
) -> None:
    host = stage.host(small(max_peers=4))
    steady = stage.peer(host)
    for _ in range(60):  # warm-up: caches of Python and of the C library
        with _life(nursery) as life:
            _one_life(life, host, rng)
    gc.collect()
    # Slots below a page are never given back: use each once before looking.
    counts.assert_full_capacity(steady.transport, host)
    host.trim()
    before = (_descriptors(), leaks.resident_bytes(), host.statistics().memory_bytes)
    ids = set()
    for _ in range(_cycles()):
        with _life(nursery) as life:
            _one_life(life, host, rng)
        ids.update(peer.peer_id for peer in host.peers)
    gc.collect()
    counts.wait_all_free(host)
    host.trim()
    after = (_descriptors(), leaks.resident_bytes(), host.statistics().memory_bytes)
    assert after[0] == before[0], "descriptors"
    assert after[1] <= before[1] + _MIB, "resident memory"
    assert after[2] == before[2], "memory of the hub"
    assert max(ids) < 4
    counts.assert_full_capacity(steady.transport, host)


@pytest.mark.time_limit(120)
def test_more_attaches_than_there_are_ids_by_far(stage: Stage) -> None:
    """The earlier hub refused the 33rd."""
    host = stage.host(shmhub.HubConfig(max_peers=32))
    for _ in range(100):
        link = stage.peer(host)
        link.kill()
        with pytest.raises(shmhub.PeerGoneError):
            link.transport.recv(timeout=PATIENCE)
        link.transport.close()
        link.agent.close()


def test_many_peers_at_once_up_to_the_limit(stage: Stage) -> None:
    host = stage.host(small(max_peers=64))
    links = [stage.peer(host) for _ in range(63)]
    with pytest.raises(shmhub.PeerLimitError):
        host.add_peer()
    for link in links:
        link.transport.send(link.peer_id.to_bytes(4, "little"))
    for link in links:
        received = link.agent.call("recv", timeout=PATIENCE)
        assert received[0]["bytes"] == link.peer_id.to_bytes(4, "little")
    for link in links:
        link.kill()
    for link in links:
        with pytest.raises(shmhub.PeerGoneError):
            link.transport.recv(timeout=PATIENCE)
    counts.wait_all_free(host)


@pytest.mark.time_limit(120)
def test_whole_hubs_come_and_go(
    nursery: Nursery, leak_check: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("hubs")
    descriptors = _descriptors()
    for number in range(60):
        path = None if number % 2 else folder / "hub"
        with _life(nursery) as life:
            link = life.peer(life.host(small(), path))
            link.transport.send(patterns.make(5000))
            link.kill()
            del link
    gc.collect()
    assert _descriptors() == descriptors
    assert os.listdir(folder) == []


def test_close_gives_descriptors_and_memory_back_although_the_objects_live_on(
    nursery: Nursery, leak_check: None
) -> None:
    """As with files: whoever closes need not also forget."""
    before = (_descriptors(), len(leaks.shared_mappings(os.getpid())))
    kept = []
    for _ in range(3):
        with _life(nursery) as life:
            host = life.host(small())
            link = life.peer(host)
            link.transport.send(patterns.make(5000))
            link.agent.call("recv", timeout=PATIENCE)
            kept.append((host, link))
    gc.collect()
    after = (_descriptors(), len(leaks.shared_mappings(os.getpid())))
    assert after == before
    assert all(host.closed for host, _ in kept)
