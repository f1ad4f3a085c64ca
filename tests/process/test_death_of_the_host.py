"""The host is killed: peers are told, views stay readable, nothing of the hub stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import shmhub
from tests.support.environment import PATIENCE
from tests.support.stage import Stage, fixed, small


@pytest.mark.parametrize("where", ["recv", "send", "alloc"])
def test_a_peer_that_waits_is_told(stage: Stage, where: str) -> None:
    host = stage.remote_host(fixed((1024, 4), ring_capacity=8))
    peer = stage.remote_peer(host)
    if where == "send":
        peer.call("send_until_full", size=16)
    if where == "alloc":
        peer.call("alloc_until_exhausted", nbytes=1024)
    arguments: dict[str, Any] = {"nbytes": 1024} if where == "alloc" else {}
    pending = peer.start(where, **arguments).wait_asleep()
    host.kill()
    with pytest.raises(shmhub.HostGoneError) as gone:
        pending.result()
    assert not gone.value.clean


def test_every_operation_of_a_peer_says_that_the_host_is_gone(stage: Stage) -> None:
    host = stage.remote_host()
    peer = stage.remote_peer(host)
    host.kill()
    with pytest.raises(shmhub.HostGoneError):
        peer.call("recv", timeout=PATIENCE)
    for verb, arguments in (("recv", {}), ("send", {}), ("send", {"size": 5000})):
        with pytest.raises(shmhub.HostGoneError):
            peer.call(verb, timeout=PATIENCE, **arguments)
    peer.leave()


def test_all_peers_are_told_and_end_in_good_order(stage: Stage) -> None:
    host = stage.remote_host()
    peers = [stage.remote_peer(host, f"peer {number}") for number in range(6)]
    pending = [peer.start("recv", timeout=PATIENCE).wait_asleep() for peer in peers]
    host.kill()
    for each in pending:
        with pytest.raises(shmhub.HostGoneError):
            each.result()
    for peer in peers:
        peer.leave()


def test_what_was_published_before_the_death_arrives(stage: Stage) -> None:
    host = stage.remote_host()
    peer = stage.remote_peer(host)
    host.call("send", via=f"peer-{peer.peer_id}", count=6, sizes=[16, 240, 1000, 100_000], sender=4)
    host.kill()
    received = peer.call("recv", count=6, timeout=PATIENCE)
    assert [frame["sequence"] for frame in received] == list(range(6))
    with pytest.raises(shmhub.HostGoneError):
        peer.call("recv", timeout=PATIENCE)


def test_frames_that_are_held_stay_readable(stage: Stage) -> None:
    host = stage.remote_host()
    peer = stage.remote_peer(host)
    host.call("send", via=f"peer-{peer.peer_id}", count=3, sizes=[1000, 300_000, 5_000_000])
    received = peer.call("recv", count=3, hold=True, timeout=PATIENCE)
    host.kill()
    with pytest.raises(shmhub.HostGoneError):
        peer.call("recv", timeout=PATIENCE)
    for frame in received:
        assert peer.call("check_held", key=frame["key"]) == frame["length"]
    peer.call("close_transport")
    peer.call("close_peer")
    for frame in received:
        assert peer.call("check_held", key=frame["key"]) == frame["length"]
    peer.call("release")
    peer.leave()


def test_a_forked_child_that_holds_the_socket_open_hides_nothing(stage: Stage) -> None:
    """The host's doorbells live on in a child that was forked without exec."""
    host = stage.remote_host()
    peer = stage.remote_peer(host)
    child = host.call("fork_and_wait")
    pidfd = os.pidfd_open(child)
    try:
        pending = peer.start("recv", timeout=PATIENCE).wait_asleep()
        host.kill()
        with pytest.raises(shmhub.HostGoneError):
            pending.result()
    finally:
        os.kill(child, 9)
        os.close(pidfd)


def test_a_dead_hosts_named_hub_is_stale_and_is_replaced(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "hub"
    for _round in range(3):
        dead = stage.remote_host(path=str(path))
        peer = stage.remote_peer(dead)
        dead.kill()
        assert path.exists()
        inode = path.stat().st_ino
        with shmhub.HubHost.create(str(path), small()) as host:
            assert path.stat().st_ino != inode
            link = stage.peer(host)
            link.transport.send(b"new")
            assert link.agent.call("recv", timeout=10)[0]["bytes"] == b"new"
            # The old hub's peer is not confused by the new one.
            with pytest.raises(shmhub.HostGoneError):
                peer.call("recv", timeout=PATIENCE)
            link.transport.close()
        peer.leave()
    assert os.listdir(tmp_path) == []


def test_a_peer_cannot_open_a_dead_hub(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "hub"
    dead = stage.remote_host(path=str(path))
    peer_id, fds = dead.call_with_descriptors("add_peer")
    dead.kill()
    agent = stage.agent()
    try:
        with pytest.raises((shmhub.ShmhubError, OSError)):
            agent.call("attach", fds=[fds[1]], peer_id=peer_id, path=str(path))
    finally:
        for fd in fds:
            os.close(fd)
        path.unlink()


def test_the_memory_of_a_dead_memfd_hub_is_given_back(stage: Stage) -> None:
    """No name, no process: the kernel frees it. Seen by the shared memory of the machine."""
    host = stage.remote_host()
    peer = stage.remote_peer(host)
    host.call("send", via=f"peer-{peer.peer_id}", count=2, size=16 << 20)
    assert "memfd" in "".join(peer.call("mappings"))
    host.kill()
    with pytest.raises(shmhub.HostGoneError):
        peer.call("recv", count=3, timeout=PATIENCE)
    peer.call("close_transport")
    peer.call("close_peer")
    peer.call("collect")
    assert "memfd" not in "".join(peer.call("mappings"))
    peer.leave()


def test_a_host_killed_while_peers_attach_leaves_nobody_waiting(stage: Stage) -> None:
    for _round in range(5):
        host = stage.remote_host()
        peer_id, fds = host.call_with_descriptors("add_peer")
        agent = stage.agent()
        host.child.stop()
        pending = agent.start("attach", fds=fds, peer_id=peer_id).wait_begun()
        for fd in fds:
            os.close(fd)
        host.kill()
        with pytest.raises((shmhub.ShmhubError, OSError)):
            pending.result()


def test_a_stopped_host_is_not_taken_for_dead(stage: Stage) -> None:
    host = stage.remote_host()
    peer = stage.remote_peer(host)
    host.child.stop()
    with pytest.raises(shmhub.HubTimeoutError):
        peer.call("recv", timeout=0.2)
    host.child.cont()
    host.call("send", via=f"peer-{peer.peer_id}", count=1)
    assert len(peer.call("recv", timeout=PATIENCE)) == 1
