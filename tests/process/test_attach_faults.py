"""What can go wrong while a peer attaches, and an id that can be used again afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import shmhub
from tests.support import counts, leaks
from tests.support.attach_steps import STEPS
from tests.support.environment import PATIENCE
from tests.support.stage import Stage, small
from tests.support.waiting import until


def _one_peer_only() -> shmhub.HubConfig:
    """Only one id: who cannot have it again cannot attach at all."""
    return small(max_peers=2)


def _attach_again(stage: Stage, host: shmhub.HubHost) -> None:
    """The only id is free again, and a next life of it works."""
    until(lambda: _try_peer(stage, host), "the id to be free again")


def _try_peer(stage: Stage, host: shmhub.HubHost) -> bool:
    try:
        link = stage.peer(host)
    except shmhub.PeerLimitError:
        return False
    link.transport.send(b"second life")
    assert link.agent.call("recv", timeout=10)[0]["bytes"] == b"second life"
    link.kill()
    counts.wait_all_free(host)
    return True


def test_a_program_that_cannot_be_started_leaves_the_place_reserved(stage: Stage) -> None:
    host = stage.host(_one_peer_only())
    info = host.add_peer()
    with pytest.raises(FileNotFoundError):
        info.popen(["/no/such/program"])
    assert counts.peer_state(host, info.peer_id) == "reserved"
    agent = stage.popen_peer(info)
    assert agent.call("pid") == agent.child.pid
    agent.kill()
    _attach_again(stage, host)


def test_a_program_that_ends_without_attaching_is_cancelled(stage: Stage) -> None:
    host = stage.host(_one_peer_only())
    info = host.add_peer("never")
    transport = stage.later(shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell))
    with info.popen([sys.executable, "-c", "import sys; sys.exit(3)"]) as process:
        with pytest.raises(shmhub.PeerGoneError) as gone:
            transport.recv(timeout=PATIENCE)
        assert gone.value.peer_id == info.peer_id
        assert process.wait(PATIENCE) == 3
    _attach_again(stage, host)


def test_a_wrapper_that_starts_the_plugin_is_not_taken_for_it(stage: Stage, tmp_path: Path) -> None:
    """`sh -c 'plugin &'` ends at once; the plugin itself lives on and attaches."""
    host = stage.host()
    info = host.add_peer()
    go = tmp_path / "go"
    os.mkfifo(go)
    program = (
        "import sys, shmhub\n"
        "open(sys.argv[1]).read()\n"  # until the wrapper is known to be gone
        "with shmhub.HubPeerTransport.from_argv(name='late') as hub:\n"
        "    for frame in hub: hub.send(frame)\n"
    )
    wrapper = ["sh", "-c", '"$@" & echo $!', "sh", sys.executable, "-Pc", program, str(go)]
    with info.popen(wrapper, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        plugin = os.pidfd_open(int(shell.stdout.readline()))
        assert shell.wait(PATIENCE) == 0
    try:
        transport = stage.later(shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell))
        go.write_text("go")
        transport.send(b"hello")
        with transport.recv(timeout=PATIENCE) as frame:
            assert bytes(frame) == b"hello"
        transport.close()
    finally:
        signal.pidfd_send_signal(plugin, signal.SIGKILL) if _alive(plugin) else None
        os.close(plugin)


def _alive(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, signal.Signals(signal.SIGCONT))
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])
@pytest.mark.parametrize("step", STEPS)
def test_death_after_each_step_gives_the_id_and_every_slot_back(
    stage: Stage, step: str, watched: bool
) -> None:
    host = stage.host(_one_peer_only())
    info = host.add_peer("stepping")
    transport = stage.later(shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell))
    reader, writer = os.pipe()
    fds = {"hub": host.fileno(), "doorbell": info.peer_doorbell_fd, "report": writer}
    child = stage.later(
        stage.nursery.spawn(
            "tests.support.attach_steps:run", fds=fds, peer_id=info.peer_id, die_after=step
        )
    )
    os.close(writer)
    if watched:
        info.watch(child.pidfd)
    with open(reader) as report:
        reached = report.read().split()
    assert reached == list(STEPS[: STEPS.index(step) + 1]), child.read_stderr()
    assert child.wait() == -signal.SIGKILL
    if not watched and step in STEPS[:4]:
        # Nobody told the host of that process: the host still holds the peer's end itself.
        info.close_peer_fd()
    received = []
    with pytest.raises(shmhub.PeerGoneError) as gone:
        while True:
            with transport.recv(timeout=PATIENCE) as frame:
                received.append(bytes(frame))
    assert gone.value.clean is (step in ("close_transport", "close"))
    assert received == ([b"x" * 1000] if STEPS.index(step) >= STEPS.index("send") else [])
    counts.wait_all_free(host)
    _attach_again(stage, host)


def test_of_two_claimants_of_an_id_one_wins_and_the_other_is_told(stage: Stage) -> None:
    host = stage.host()
    for _round in range(20):
        info = host.add_peer()
        transport = stage.later(shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell))
        agents = [stage.agent(f"claimant {number}") for number in range(2)]
        for agent in agents:
            agent.call("open_hub", fds=[host.fileno()], peer_id=info.peer_id)
        outcomes = []
        for pending in [agent.start("register") for agent in agents]:
            try:
                outcomes.append(pending.result())
            except (shmhub.NotAttachedError, shmhub.PeerStateError) as refused:
                assert str(info.peer_id) in str(refused)
                outcomes.append(refused)
        winners = [a for a, o in zip(agents, outcomes, strict=True) if o is None]
        assert len(winners) == 1, outcomes
        (loser,) = [a for a in agents if a is not winners[0]]
        loser.leave()
        winners[0].call("connect", fds=[info.peer_doorbell_fd])
        transport.send(b"won")
        assert winners[0].call("recv", timeout=10)[0]["bytes"] == b"won"
        winners[0].kill()
        transport.close()
        counts.wait_gone(host, info.peer_id)


def test_a_host_that_forgets_its_copy_of_the_peers_end_still_sees_the_death(stage: Stage) -> None:
    """close_peer_fd is never called: the attach itself has to take care of it."""
    host = stage.host()
    info = host.add_peer()
    copy = os.dup(info.peer_doorbell_fd)  # and one that the host does not even know of
    try:
        transport = stage.later(shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell))
        agent = stage.agent()
        stage.attach(host, info, agent)
        agent.call("send", count=1, size=1000)
        agent.kill()
        transport.recv(timeout=PATIENCE).release()
        with pytest.raises(shmhub.PeerGoneError) as gone:
            transport.recv(timeout=PATIENCE)
        assert not gone.value.clean
    finally:
        os.close(copy)


def test_a_grandchild_that_keeps_the_doorbell_open_keeps_nobody_alive(stage: Stage) -> None:
    host = stage.host()
    link = stage.peer(host)
    other = stage.agent("heir")
    pid = link.agent.call("pid")
    heir_fds = _copy_doorbells(link.agent.call("descriptors"), pid)
    try:
        assert heir_fds, "the peer has no socket: it can have no doorbell"
        link.kill()
        with pytest.raises(shmhub.PeerGoneError) as gone:
            link.transport.recv(timeout=PATIENCE)
        assert not gone.value.clean
        counts.wait_gone(host, link.peer_id)
    finally:
        for fd in heir_fds:
            os.close(fd)
    assert other.call("pid") > 0


def _copy_doorbells(descriptors: dict[int, str], pid: int) -> list[int]:
    """Copies of all sockets of another process, as a grandchild would inherit them."""
    import ctypes

    pidfd_getfd = 438
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    copies = []
    for number, target in descriptors.items():
        if target.startswith("socket:"):
            copy = libc.syscall(pidfd_getfd, pidfd, number, 0)
            assert copy >= 0, os.strerror(ctypes.get_errno())
            copies.append(copy)
    os.close(pidfd)
    return copies


def test_a_sibling_inherits_nothing_of_another_peer(stage: Stage, tmp_path: Path) -> None:
    """Not even a program started with close_fds=False: what it must not have is close-on-exec."""
    before = set(leaks.open_descriptors(os.getpid()).values())
    host = stage.host()
    infos = [host.add_peer() for _ in range(3)]
    peers = [stage.popen_peer(info) for info in infos[:2]]
    for peer in peers:
        assert peer.call("pid") > 0
    of_the_hub = set(leaks.open_descriptors(os.getpid()).values()) - before
    assert len(of_the_hub) >= 5
    out = tmp_path / "descriptors"
    program = (
        "import os\n"
        "for name in os.listdir('/proc/self/fd'):\n"
        "    try: print(os.readlink('/proc/self/fd/' + name))\n"
        "    except OSError: pass\n"
    )
    with out.open("w") as file:
        subprocess.run(
            [sys.executable, "-c", program], stdout=file, close_fds=False, timeout=PATIENCE
        )
    inherited = set(out.read_text().splitlines())
    assert inherited
    assert not inherited & of_the_hub


def test_a_plugin_started_with_popen_has_only_what_is_its_own(stage: Stage) -> None:
    host = stage.host()
    first, second = host.add_peer(), host.add_peer()
    first_end = os.readlink(f"/proc/self/fd/{first.peer_doorbell_fd}")
    agents = [stage.popen_peer(info) for info in (first, second)]
    sockets = [set(a.call("descriptors").values()) for a in agents]
    assert first_end in sockets[0]
    assert first_end not in sockets[1]


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM", "EMFILE"])
def test_a_peer_that_may_not_open_its_own_pidfd_attaches_and_its_death_is_seen(
    stage: Stage, error: str
) -> None:
    """A sandboxed plugin: the host opens the pidfd instead."""
    host = stage.host(_one_peer_only())
    info = host.add_peer()
    transport = stage.later(shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell))
    reader, writer = os.pipe()
    fds = {"hub": host.fileno(), "doorbell": info.peer_doorbell_fd, "report": writer}
    child = stage.later(
        stage.nursery.spawn(
            "tests.support.attach_steps:run",
            fds=fds,
            peer_id=info.peer_id,
            die_after="send",
            error=error,
        )
    )
    os.close(writer)
    with open(reader) as report:
        assert report.read().split()[-1] == "send", child.read_stderr()
    assert child.wait() == -signal.SIGKILL
    transport.recv(timeout=PATIENCE).release()
    with pytest.raises(shmhub.PeerGoneError) as gone:
        transport.recv(timeout=PATIENCE)
    assert not gone.value.clean
    _attach_again(stage, host)


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM", "EMFILE"])
def test_a_host_that_may_not_use_pidfd_open_says_so_and_leaves_nothing(
    stage: Stage, tmp_path: Path, error: str
) -> None:
    for path in (None, str(tmp_path / "hub")):
        reader, writer = os.pipe()
        child = stage.later(
            stage.nursery.spawn(
                "tests.support.attach_steps:create_refused",
                fds={"report": writer},
                path=path,
                error=error,
            )
        )
        os.close(writer)
        with open(reader) as report:
            text = report.read()
        assert child.wait() == 0, child.read_stderr()
        assert "pidfd_open" in text
    assert os.listdir(tmp_path) == []


def test_a_cancelled_attach_does_not_claim_the_next_life_of_its_id(stage: Stage) -> None:
    host = stage.host(_one_peer_only())
    info = host.add_peer()
    late = stage.agent("late")
    late.call("open_hub", fds=[host.fileno()], peer_id=info.peer_id)
    late_end = os.dup(info.peer_doorbell_fd)
    host.remove_peer(info.peer_id)
    with pytest.raises((shmhub.NotAttachedError, shmhub.PeerStateError)):
        late.call("register")
    os.close(late_end)
    _attach_again(stage, host)


def test_a_removed_id_is_not_given_out_while_its_doorbell_may_still_be_used(stage: Stage) -> None:
    """A grandchild that still has the old doorbell must not become the next owner of the id."""
    host = stage.host(_one_peer_only())
    info = host.add_peer()
    heir = socket.socket(fileno=os.dup(info.peer_doorbell_fd))
    with heir:
        host.remove_peer(info.peer_id)
        with pytest.raises(shmhub.PeerLimitError):
            host.add_peer()
    _attach_again(stage, host)


def test_all_ids_taken_is_an_error_that_tells_the_limit(stage: Stage) -> None:
    host = stage.host(small(max_peers=4))
    infos = [host.add_peer() for _ in range(3)]
    with pytest.raises(shmhub.PeerLimitError) as failure:
        host.add_peer()
    assert "max_peers" in str(failure.value)
    host.remove_peer(infos[1].peer_id)
    assert until(lambda: _added(host), "an id to be free") == infos[1].peer_id


def _added(host: shmhub.HubHost) -> int:
    try:
        return int(host.add_peer().peer_id)
    except shmhub.PeerLimitError:
        return 0


def test_a_live_peer_cannot_be_removed(stage: Stage) -> None:
    host = stage.host()
    link = stage.peer(host)
    with pytest.raises(shmhub.PeerStateError) as failure:
        host.remove_peer(link.peer_id)
    assert str(link.peer_id) in str(failure.value)


def test_one_transport_a_peer(stage: Stage) -> None:
    host = stage.host()
    link = stage.peer(host)
    with pytest.raises(shmhub.PeerStateError):
        shmhub.HubHostPeerTransport(host, link.peer_id, link.info.doorbell)
    link.transport.send(b"unharmed")
    assert link.agent.call("recv", timeout=10)[0]["bytes"] == b"unharmed"
