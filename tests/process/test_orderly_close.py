"""Both sides close, in every order: clean, told apart from death, and nothing stays."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import shmhub
from tests.support import counts, patterns
from tests.support.environment import PATIENCE
from tests.support.stage import Link, Stage, small
from tests.support.threads import run_in_thread


class _Party:
    """The four things that are closed, by the names the test permutes."""

    def __init__(self, host: shmhub.HubHost, link: Link) -> None:
        self._calls = {
            "host transport": link.transport.close,
            "host": host.close,
            "peer transport": lambda: link.agent.call("close_transport"),
            "peer": lambda: link.agent.call("close_peer"),
        }

    def close(self, what: str) -> None:
        self._calls[what]()


ORDERS = list(itertools.permutations(["host transport", "host", "peer transport", "peer"]))


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: ", ".join(order))
def test_every_order_of_closing_is_clean(stage: Stage, order: tuple[str, ...]) -> None:
    host = stage.host()
    link = stage.peer(host)
    link.transport.send(patterns.make(5000))
    link.agent.call("send", count=2, size=5000)
    link.agent.call("recv", timeout=10, hold=True)
    frame = link.transport.recv(timeout=PATIENCE)
    party = _Party(host, link)
    for what in order:
        party.close(what)
    patterns.check(frame.payload, sequence=0)
    frame.release()
    link.agent.call("release")
    link.agent.leave()


def test_iteration_ends_when_the_peer_closes(stage: Stage) -> None:
    host = stage.host()
    link = stage.peer(host)
    link.agent.call("send", count=5, size=1000)
    link.agent.call("close_transport")
    received = [patterns.check(frame.payload).sequence for frame in link.transport]
    assert received == [0, 1, 2, 3, 4]
    with pytest.raises(shmhub.PeerGoneError) as gone:
        link.transport.recv(timeout=PATIENCE)
    assert gone.value.clean
    assert gone.value.undelivered == ()
    counts.wait_all_free(host)


def test_iteration_raises_when_the_peer_dies(stage: Stage) -> None:
    host = stage.host()
    link = stage.peer(host)
    link.agent.call("send", count=5, size=1000)
    link.kill()
    received = []
    with pytest.raises(shmhub.PeerGoneError) as gone:
        for frame in link.transport:
            received.append(patterns.check(frame.payload).sequence)
            frame.release()
    assert received == [0, 1, 2, 3, 4]
    assert not gone.value.clean
    counts.wait_all_free(host)


def test_iteration_of_a_peer_ends_when_the_host_closes(stage: Stage) -> None:
    host = stage.host()
    link = stage.peer(host)
    pending = link.agent.start("iterate")
    for sequence in range(3):
        link.transport.send(patterns.make(1000, 0, sequence))
    link.transport.close()
    assert [frame["sequence"] for frame in pending.result()] == [0, 1, 2]
    with pytest.raises(shmhub.HostGoneError) as gone:
        link.agent.call("recv", timeout=PATIENCE)
    assert gone.value.clean


def test_iteration_of_a_peer_ends_when_the_whole_hub_closes(stage: Stage) -> None:
    host = stage.host()
    links = [stage.peer(host) for _ in range(4)]
    pending = [link.agent.start("iterate").wait_asleep() for link in links]
    host.close()
    assert [each.result() for each in pending] == [[]] * 4
    for link in links:
        link.agent.leave()


def test_iteration_of_a_peer_raises_when_the_host_dies(stage: Stage) -> None:
    host = stage.remote_host()
    peer = stage.remote_peer(host)
    pending = peer.start("iterate").wait_asleep()
    host.kill()
    with pytest.raises(shmhub.HostGoneError) as gone:
        pending.result()
    assert not gone.value.clean


def test_messages_to_a_peer_that_left_are_reported_as_undelivered(stage: Stage) -> None:
    host = stage.host()
    link = stage.peer(host)
    ids = [link.transport.send(patterns.make(2000)) for _ in range(3)]
    link.agent.call("recv", timeout=10)
    link.agent.call("close_transport")
    with pytest.raises(shmhub.PeerGoneError) as gone:
        link.transport.recv(timeout=PATIENCE)
    assert gone.value.clean
    assert gone.value.undelivered == tuple(ids[1:])
    counts.wait_all_free(host)


def test_an_id_stays_taken_until_the_last_frame_of_who_left_is_gone(stage: Stage) -> None:
    host = stage.host(small(max_peers=2))
    link = stage.peer(host)
    link.transport.send(patterns.make(5000))
    link.agent.call("recv", timeout=10, hold=True)
    link.agent.call("close_transport")
    link.agent.call("close_peer")
    with pytest.raises(shmhub.PeerGoneError) as gone:
        link.transport.recv(timeout=PATIENCE)
    assert gone.value.clean
    with pytest.raises(shmhub.PeerLimitError):
        host.add_peer()
    assert counts.total(host, "owned") == 1
    link.agent.call("release")
    counts.wait_all_free(host)
    link.agent.leave()
    counts.wait_gone(host, link.peer_id)
    assert stage.peer(host).peer_id == link.peer_id


def test_a_peer_that_ends_without_closing_anything_is_dead_not_clean(stage: Stage) -> None:
    host = stage.host()
    link = stage.peer(host)
    link.agent.start("exit_now", code=0)
    assert link.agent.child.wait() == 0
    with pytest.raises(shmhub.PeerGoneError) as gone:
        link.transport.recv(timeout=PATIENCE)
    assert not gone.value.clean
    counts.wait_all_free(host)


def test_closing_twice_and_using_afterwards(stage: Stage) -> None:
    host = stage.host()
    link = stage.peer(host)
    slot = link.transport.alloc(100)
    slot.release()
    link.transport.close()
    link.transport.close()
    assert link.transport.closed
    calls: list[Any] = [
        lambda: link.transport.send(b"x"),
        lambda: link.transport.send_nowait(b"x"),
        lambda: link.transport.recv(timeout=0),
        lambda: link.transport.recv_nowait(),
        lambda: link.transport.alloc(10, timeout=0),
        lambda: link.transport.alloc_nowait(10),
        lambda: link.transport.fileno(),
        lambda: link.transport.send_many([b"x"]),
        lambda: link.transport.recv_many(3, timeout=0),
    ]
    for call in calls:
        with pytest.raises(shmhub.HubClosedError):
            call()
    host.close()
    host.close()
    assert host.closed
    for call in (host.add_peer, host.trim, lambda: host.remove_peer(1)):
        with pytest.raises(shmhub.HubClosedError):
            call()


@pytest.mark.parametrize("what", ["transport", "host"])
@pytest.mark.parametrize("where", ["recv", "send", "alloc"])
def test_close_wakes_the_threads_that_wait(stage: Stage, where: str, what: str) -> None:
    host = stage.host(small(ring_capacity=8))
    link = stage.peer(host)
    if where == "send":
        with pytest.raises(shmhub.RingFullError):
            while True:
                link.transport.send_nowait(b"fill")
    taken = []
    if where == "alloc":
        with pytest.raises(shmhub.SlotsExhaustedError):
            while True:
                taken.append(link.transport.alloc_nowait(16 << 20))
    calls: dict[str, Any] = {
        "recv": link.transport.recv,
        "send": lambda: link.transport.send(b"more"),
        "alloc": lambda: link.transport.alloc(16 << 20),
    }
    outcomes = [run_in_thread(calls[where]) for _ in range(3)]
    for outcome in outcomes:
        outcome.wait_asleep()
    (link.transport if what == "transport" else host).close()
    for outcome in outcomes:
        error = outcome.error()
        assert isinstance(error, shmhub.HubClosedError), error
    for slot in taken:
        slot.release()


def test_close_in_the_peer_wakes_its_own_waiting_thread(stage: Stage) -> None:
    host = stage.host()
    link = stage.peer(host)
    pending = link.agent.start("recv", thread=True).wait_asleep()
    link.agent.call("close_transport")
    with pytest.raises(shmhub.HubClosedError):
        pending.result()
    link.agent.leave()


def test_leaving_a_with_block_closes_in_the_right_order(stage: Stage) -> None:
    with shmhub.HubHost.create() as host:
        info = host.add_peer()
        agent = stage.agent()
        with shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
            stage.attach(host, info, agent)
            transport.send(b"hello")
            assert agent.call("recv", timeout=10)[0]["bytes"] == b"hello"
        assert transport.closed
        with pytest.raises(shmhub.HostGoneError) as gone:
            agent.call("recv", timeout=PATIENCE)
        assert gone.value.clean
    assert host.closed
    agent.leave()


def test_a_thousand_messages_before_an_orderly_close_all_arrive(stage: Stage) -> None:
    host = stage.host()
    link = stage.peer(host)
    pending = link.agent.start("stream_out", sizes=[16, 900, 20_000], sender=2, count=1000)
    arrived = 0
    closing = None
    while True:
        try:
            with link.transport.recv(timeout=PATIENCE) as frame:
                patterns.check(frame.payload, sender=2, sequence=arrived)
        except shmhub.PeerGoneError as gone:
            assert gone.clean
            break
        arrived += 1
        if closing is None:
            # Queued behind the stream: the agent closes as soon as it has sent the last one.
            closing = link.agent.start("close_transport")
    assert arrived == pending.result() == 1000
    counts.wait_all_free(host)
