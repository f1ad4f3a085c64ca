"""SIGSTOP of either side for longer than any timeout, then SIGCONT: nothing lost."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

import shmhub
from tests.support import counts, patterns
from tests.support.environment import BRIEF, PATIENCE
from tests.support.stage import Stage, fixed, small
from tests.support.threads import run_in_thread


def _assert_alive(host: shmhub.HubHost, peer_id: int) -> None:
    assert counts.peer_state(host, peer_id) == "active"
    assert host.statistics().deaths == 0


def test_a_stopped_peer_is_waited_for_and_loses_nothing(stage: Stage) -> None:
    host = stage.host(fixed((1024, 32), ring_capacity=16))
    link = stage.peer(host)
    held = link.agent.call("alloc", nbytes=1000, count=3)
    link.agent.child.stop()
    sent = 0
    with pytest.raises(shmhub.HubTimeoutError):
        while True:
            link.transport.send(patterns.make(700, 0, sent), timeout=BRIEF)
            sent += 1
    with pytest.raises(shmhub.HubTimeoutError):
        link.transport.recv(timeout=BRIEF)
    _assert_alive(host, link.peer_id)
    assert counts.total(host, "owned") == 3
    link.agent.child.cont()
    received = link.agent.call("recv", count=sent, timeout=PATIENCE)
    assert [frame["sequence"] for frame in received] == list(range(sent))
    for key in held:
        link.agent.call("check_held", key=key, sequence=key)
    link.agent.call("release")
    counts.wait_all_free(host)


@pytest.mark.parametrize("where", ["recv", "send", "alloc"])
def test_a_peer_stopped_in_a_wait_goes_on_waiting(stage: Stage, where: str) -> None:
    host = stage.host(fixed((1024, 8), ring_capacity=8))
    link, other = stage.peer(host), stage.peer(host)
    arguments: dict[str, Any] = {"recv": {}, "send": {"size": 16}, "alloc": {"nbytes": 1000}}[where]
    filled: list[int] = []
    if where == "send":
        filled = link.agent.call("send_until_full", size=16)
    if where == "alloc":
        other.agent.call("alloc", nbytes=1000, count=8)
    pending = link.agent.start(where, **arguments).wait_asleep()
    link.agent.child.stop()
    # What it waits for happens while it is stopped.
    if where == "recv":
        link.transport.send(patterns.make(100, 0, 9))
    for sequence in range(len(filled)):
        with link.transport.recv(timeout=PATIENCE) as frame:
            patterns.check(frame.payload, sequence=sequence)
    if where == "alloc":
        other.agent.call("release")
    _assert_alive(host, link.peer_id)
    link.agent.child.cont()
    assert len(pending.result()) == 1
    if where == "send":
        link.transport.recv(timeout=PATIENCE).release()
    link.agent.call("release")
    counts.wait_all_free(host)


def test_a_timed_wait_that_slept_through_its_stop_tells_the_truth(stage: Stage) -> None:
    """Its time ran out while it was stopped, but the message is there: one last try finds it."""
    host = stage.host(small())
    link = stage.peer(host)
    pending = link.agent.start("recv", timeout=0.5).wait_asleep()
    link.agent.child.stop()
    link.transport.send(patterns.make(100, 0, 1))
    waited = threading.Event()
    assert not waited.wait(0.7)  # the timeout itself has to pass
    link.agent.child.cont()
    try:
        received = pending.result()
    except shmhub.HubTimeoutError:
        received = link.agent.call("recv", timeout=PATIENCE)
    assert [frame["sequence"] for frame in received] == [1]
    with pytest.raises(shmhub.HubTimeoutError):
        link.agent.call("recv", timeout=0)


def test_a_stopped_host_keeps_its_peers_waiting_and_then_serves_them(stage: Stage) -> None:
    host = stage.remote_host(fixed((1024, 16), ring_capacity=16))
    peers = [stage.remote_peer(host, f"peer {number}") for number in range(3)]
    host.child.stop()
    sent = {}
    for peer in peers:
        with pytest.raises(shmhub.HubTimeoutError):
            peer.call("recv", timeout=BRIEF)
        sent[peer] = peer.call("send_until_full", size=100)
        assert sent[peer]
    waiting = [peer.start("recv").wait_asleep() for peer in peers]
    host.child.cont()
    for peer in peers:
        received = host.call(
            "recv", via=f"peer-{peer.peer_id}", count=len(sent[peer]), timeout=PATIENCE
        )
        assert [frame["message_id"] for frame in received] == sent[peer]
        host.call("send", via=f"peer-{peer.peer_id}", count=1)
    for each in waiting:
        assert len(each.result()) == 1


def test_an_attach_survives_a_stopped_host(stage: Stage) -> None:
    host = stage.remote_host()
    peer_id, fds = host.call_with_descriptors("add_peer")
    host.child.stop()
    agent = stage.agent()
    pending = agent.start("attach", fds=fds, peer_id=peer_id).wait_asleep()
    for fd in fds:
        os.close(fd)
    host.child.cont()
    pending.result()
    agent.peer_id = peer_id
    host.call("send", via=f"peer-{peer_id}", count=1)
    assert len(agent.call("recv", timeout=PATIENCE)) == 1


def test_stops_in_the_middle_of_streams_lose_nothing(stage: Stage) -> None:
    host = stage.host(fixed((1024, 32), (16384, 16), ring_capacity=16))
    link = stage.peer(host)
    total = 3000
    incoming = link.agent.start("stream_in", thread=True, count=total)
    outgoing = link.agent.start(
        "stream_out", thread=True, sizes=[16, 900, 9000], sender=1, count=total
    )

    def receive() -> int:
        for sequence in range(total):
            with link.transport.recv(timeout=PATIENCE) as frame:
                patterns.check(frame.payload, sender=1, sequence=sequence)
        return total

    def send() -> int:
        for sequence in range(total):
            payload = patterns.make((16, 900, 9000)[sequence % 3], 0, sequence)
            link.transport.send(payload, timeout=PATIENCE)
        return total

    running = [run_in_thread(receive), run_in_thread(send)]
    pause = threading.Event()
    stops = 0
    while not all(thread.done() for thread in running) and stops < 200:
        link.agent.child.stop()
        pause.wait(0.01)
        link.agent.child.cont()
        pause.wait(0.005)
        stops += 1
    assert stops > 0
    assert [thread.value() for thread in running] == [total, total]
    assert incoming.result() == {0: total}
    assert outgoing.result() == total
    _assert_alive(host, link.peer_id)
    counts.wait_all_free(host)


def test_a_stopped_peer_can_be_killed(stage: Stage) -> None:
    host = stage.host(small())
    link = stage.peer(host)
    link.agent.call("alloc", nbytes=1000, count=3)
    link.agent.child.stop()
    link.kill()
    with pytest.raises(shmhub.PeerGoneError):
        link.transport.recv(timeout=PATIENCE)
    counts.wait_all_free(host)


def test_a_stopped_peer_does_not_delay_the_others(stage: Stage) -> None:
    host = stage.host(small())
    stopped, running = stage.peer(host), stage.peer(host)
    stopped.agent.child.stop()
    echo = running.agent.start("echo", count=100)
    for number in range(100):
        running.transport.send(patterns.make(5000, 0, number), timeout=PATIENCE)
        with running.transport.recv(timeout=PATIENCE) as frame:
            patterns.check(frame.payload, sequence=number)
    assert echo.result() == 100
    stopped.agent.child.cont()
    stopped.transport.send(b"awake again")
    assert stopped.agent.call("recv", timeout=10)[0]["length"] == 11
