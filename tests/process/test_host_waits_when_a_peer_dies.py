"""The host waits in recv, in send on a full ring, in alloc: the death of the peer ends the wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import shmhub
from tests.support import counts, patterns
from tests.support.environment import PATIENCE
from tests.support.stage import Link, Stage, fixed
from tests.support.threads import Outcome, run_in_thread


def _config() -> shmhub.HubConfig:
    return fixed((1024, 16), ring_capacity=8)


def _wait_in_recv(link: Link) -> Callable[[], Any]:
    return lambda: link.transport.recv(timeout=PATIENCE)


def _wait_in_full_ring(link: Link) -> Callable[[], Any]:
    with pytest.raises(shmhub.RingFullError):
        while True:
            link.transport.send_nowait(b"small")
    return lambda: link.transport.send(b"one more", timeout=PATIENCE)


def _wait_in_send_many(link: Link) -> Callable[[], Any]:
    return lambda: link.transport.send_many([b"message"] * 100, timeout=PATIENCE)


PEER_WAITS = [_wait_in_recv, _wait_in_full_ring, _wait_in_send_many]


@pytest.mark.parametrize("prepare", PEER_WAITS, ids=lambda f: f.__name__.strip("_"))
def test_a_wait_for_a_peer_ends_with_the_peer(
    stage: Stage, prepare: Callable[[Link], Callable[[], Any]]
) -> None:
    host = stage.host(_config())
    link = stage.peer(host)
    outcome = run_in_thread(prepare(link)).wait_asleep()
    link.kill()
    error = outcome.error()
    assert isinstance(error, shmhub.PeerGoneError), error
    assert error.peer_id == link.peer_id
    assert not error.clean
    counts.wait_all_free(host)


def test_a_wait_for_a_slot_ends_with_the_death_of_its_holder(stage: Stage) -> None:
    """The peer died with all slots: the allocation goes on with those, or tells of the death."""
    host = stage.host(_config())
    link, other = stage.peer(host), stage.peer(host)
    link.agent.call("alloc", nbytes=1024, count=16)
    alloc = run_in_thread(lambda: other.transport.alloc(1000, timeout=PATIENCE)).wait_asleep()
    send = run_in_thread(
        lambda: other.transport.send(patterns.make(1000), timeout=PATIENCE)
    ).wait_asleep()
    link.kill()
    alloc.value().release()
    send.value()
    other.agent.call("recv", timeout=10)
    counts.wait_all_free(host)


def test_a_send_that_waits_for_a_slot_ends_with_its_receiver(stage: Stage) -> None:
    host = stage.host(_config())
    link, holder = stage.peer(host), stage.peer(host)
    holder.agent.call("alloc", nbytes=1024, count=16)
    outcome = run_in_thread(
        lambda: link.transport.send(b"s" * 1000, timeout=PATIENCE)
    ).wait_asleep()
    link.kill()
    error = outcome.error()
    assert isinstance(error, shmhub.PeerGoneError), error
    holder.agent.call("release")
    counts.wait_all_free(host)


def test_an_alloc_on_the_transport_of_the_dead_peer_does_not_wait_for_ever(stage: Stage) -> None:
    host = stage.host(_config())
    link, holder = stage.peer(host), stage.peer(host)
    holder.agent.call("alloc", nbytes=1024, count=16)
    outcome = run_in_thread(lambda: link.transport.alloc(1000, timeout=PATIENCE)).wait_asleep()
    link.kill()
    counts.wait_gone(host, link.peer_id)
    holder.agent.call("release")
    # Either it has told of the death, or it got a slot once there was one.
    if (error := outcome.error()) is None:
        outcome.value().release()
    else:
        assert isinstance(error, shmhub.PeerGoneError), error
    counts.wait_all_free(host)


def test_many_threads_that_wait_for_one_peer_all_end(stage: Stage) -> None:
    host = stage.host(_config())
    link = stage.peer(host)
    outcomes: list[Outcome] = [
        run_in_thread(lambda: link.transport.recv(timeout=PATIENCE)) for _ in range(4)
    ]
    for outcome in outcomes:
        outcome.wait_asleep()
    link.kill()
    for outcome in outcomes:
        assert isinstance(outcome.error(), shmhub.PeerGoneError)


def test_all_peers_transport_waiting_in_recv_is_told(stage: Stage) -> None:
    host = stage.host(_config())
    transport = stage.later(shmhub.HubHostTransport(host))
    links = [stage.peer(host, transport=False) for _ in range(3)]
    for link in links:
        outcome = run_in_thread(lambda: transport.recv(timeout=PATIENCE)).wait_asleep()
        link.kill()
        error = outcome.error()
        assert isinstance(error, shmhub.PeerGoneError), error
        assert error.peer_id == link.peer_id


def test_all_peers_transport_waiting_in_send_to_the_dead_one_is_told(stage: Stage) -> None:
    host = stage.host(_config())
    transport = stage.later(shmhub.HubHostTransport(host))
    link = stage.peer(host, transport=False)
    with pytest.raises(shmhub.RingFullError):
        while True:
            transport.send_nowait(b"small", to=link.peer_id)
    outcome = run_in_thread(
        lambda: transport.send(b"more", to=link.peer_id, timeout=PATIENCE)
    ).wait_asleep()
    link.kill()
    error = outcome.error()
    assert isinstance(error, shmhub.PeerGoneError), error


@pytest.mark.parametrize("where", ["recv", "send", "alloc"])
def test_asyncio_waits_end_with_the_peer(stage: Stage, where: str) -> None:
    host = stage.host(_config())
    info = host.add_peer()
    agent = stage.agent()
    stage.attach(host, info, agent)

    async def main() -> None:
        async with shmhub.aio.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
            if where == "alloc":
                agent.call("alloc", nbytes=1024, count=16)
            if where == "send":
                with pytest.raises(shmhub.RingFullError):
                    while True:
                        transport.send_nowait(b"small")
            calls: dict[str, Callable[[], Awaitable[Any]]] = {
                "recv": transport.recv,
                "send": lambda: transport.send(b"one more"),
                "alloc": lambda: transport.alloc(1000),
            }
            task = asyncio.ensure_future(calls[where]())
            for _ in range(20):
                await asyncio.sleep(0)
            assert not task.done()
            await asyncio.to_thread(agent.kill)
            try:
                slot = await asyncio.wait_for(task, PATIENCE)
            except shmhub.PeerGoneError as gone:
                assert gone.peer_id == info.peer_id
            else:
                assert where == "alloc"
                slot.release()

    asyncio.run(main())
    counts.wait_all_free(host)


def test_the_host_is_not_kept_from_others_by_a_dead_peer(stage: Stage) -> None:
    host = stage.host(_config())
    doomed, alive = stage.peer(host), stage.peer(host)
    barrier = threading.Barrier(2)

    def talk() -> int:
        barrier.wait()
        done = 0
        for _ in range(200):
            alive.transport.send(b"ping", timeout=PATIENCE)
            alive.transport.recv(timeout=PATIENCE).release()
            done += 1
        return done

    echo = alive.agent.start("echo", count=200)
    outcome = run_in_thread(talk)
    barrier.wait()
    doomed.kill()
    assert outcome.value() == 200
    assert echo.result() == 200
