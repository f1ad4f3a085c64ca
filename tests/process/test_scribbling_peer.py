"""A peer that writes anywhere in the hub while the host works: errors, never a crash or a hang."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from typing import Any

import pytest

import shmhub
from tests.support import counts, patterns
from tests.support.agent_client import AgentHandle
from tests.support.environment import PATIENCE, is_full_run
from tests.support.hub_file import SLOT_META, Header
from tests.support.processes import Child
from tests.support.scribbler import FORGERIES, KINDS, damage
from tests.support.stage import Stage, fixed


def _config() -> shmhub.HubConfig:
    return fixed((1024, 32), (16384, 16), (262144, 4), max_peers=6, ring_capacity=16)


def _spawn_beside(
    stage: Stage, host: AgentHandle, target: str, *, first: bool, **arguments: Any
) -> Child:
    """A damaging peer of a hub that lives in another process, too."""
    peer_id, fds = host.call_with_descriptors("add_peer", name="scribbler")
    reader, writer = os.pipe()
    child: Child = stage.later(
        stage.nursery.spawn(
            f"tests.support.scribbler:{target}",
            fds={"hub": fds[0], "doorbell": fds[1], "report": writer},
            peer_id=peer_id,
            **arguments,
        )
    )
    for fd in (*fds, writer):
        os.close(fd)
    with open(reader) as report:
        if report.readline() != "attached\n":
            # Where the header is damaged already nobody attaches any more, and is told so.
            assert not first, child.read_stderr()
            assert child.wait() == 1
            assert "shmhub." in child.read_stderr()
    return child


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_survives_random_damage(stage: Stage, rng: random.Random, kind: str) -> None:
    """The host works on in its own process; it may refuse, it may not die or stop answering."""
    host = stage.remote_host(_config())
    bystander = stage.remote_peer(host, "bystander")
    rounds = 5000 if is_full_run() else 150
    for life in range(4):
        child = _spawn_beside(
            stage,
            host,
            "run",
            first=life == 0,
            kind=kind,
            seed=rng.getrandbits(32),
            rounds=rounds,
        )
        for _ in range(30):
            _exercise(host, bystander)
        with contextlib.suppress(AssertionError):
            child.wait(5.0)
        child.kill_and_wait()
        _exercise(host, bystander)
    host.call("close_everything")
    host.leave()


def _exercise(host: AgentHandle, bystander: AgentHandle) -> None:
    """Whatever comes of it: an answer, in time, from a host that lives."""
    via = f"peer-{bystander.peer_id}"
    for verb, arguments in (
        ("work", {"via": via}),
        ("poke", {}),
    ):
        host.call(verb, **arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_peers_that_attach_to_damage_harm_nobody_but_themselves(
    stage: Stage, rng: random.Random, kind: str
) -> None:
    """Everything is damaged before the attach: an error or a conversation, and the host lives."""
    host = stage.remote_host(_config())
    bystander = stage.remote_peer(host, "bystander")
    header: Header | None = None
    for _ in range(4):
        peer_id, fds = host.call_with_descriptors("add_peer", name="late")
        header = header or stage.later(Header(fds[0]))
        regions = [region for region in header.regions(peer_id) if region.name.startswith(kind)]
        for _ in range(20):
            damage(header, rng.choice(regions), rng)
        agent = stage.agent("late")
        pending = agent.start("attach", fds=fds, peer_id=peer_id)
        for fd in fds:
            os.close(fd)
        with contextlib.suppress(shmhub.ShmhubError, OSError, AssertionError):
            pending.result(5.0)
            agent.call("work", via="main")
        _exercise(host, bystander)
        agent.close()
        _exercise(host, bystander)
    host.call("close_everything")
    host.leave()


@pytest.mark.parametrize("which", ["hot list", "cold list"])
@pytest.mark.parametrize("shape", ["one slot", "all slots"])
def test_free_lists_that_run_in_a_circle_end_in_a_scan(
    stage: Stage, which: str, shape: str
) -> None:
    """Walks are bounded: every slot is still found, and the hub says so when there is none."""
    host = stage.remote_host(_config())
    peer_id, fds = host.call_with_descriptors("add_peer", name="peer")
    header = stage.later(Header(fds[0]))
    for fd in fds:
        os.close(fd)
    via = f"peer-{peer_id}"
    used = host.call("alloc_via", nbytes=1000, via=via)
    regions = {region.name: region for region in header.regions(peer_id)}
    slots = regions["slots of class 0"]
    count = slots.length // SLOT_META
    for index in range(count):
        after = index if shape == "one slot" else (index + 1) % count
        struct.pack_into("<I", header.map, slots.start + index * SLOT_META + 8, after)
    struct.pack_into("<Q", header.map, regions[f"{which} 0"].start, 1 << 24)
    pending = host.start("alloc_until_exhausted", nbytes=1000, via=via)
    capacities = pending.result(10.0)
    assert capacities.count(1024) == count - 1
    host.call("release")
    assert used
    host.leave()


# A reference to a slot that is not in the ring: some third peer may have written to that slot's
# state, so the sender is not cut off for it. The message is refused, counted and reported.
COULD_BE_ANOTHERS_DOING = {"slot nobody has", "length beyond the slot"}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_descriptor_is_a_violation_that_is_counted_and_reported(
    stage: Stage, forgery: str
) -> None:
    host = stage.host(_config())
    honest = stage.peer(host)
    info = host.add_peer("forger")
    transport = stage.later(shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell))
    reader, writer = os.pipe()
    child = stage.later(
        stage.nursery.spawn(
            "tests.support.scribbler:forge",
            fds={"hub": host.fileno(), "doorbell": info.peer_doorbell_fd, "report": writer},
            peer_id=info.peer_id,
            forgery=forgery,
        )
    )
    os.close(writer)
    with open(reader) as report:
        assert report.readline() == "forged\n", child.read_stderr()
        with pytest.raises((shmhub.ProtocolViolation, shmhub.PeerGoneError)):
            transport.recv(timeout=PATIENCE)
        assert host.statistics().violations >= 1
        if forgery not in COULD_BE_ANOTHERS_DOING:
            counts.wait_state(host, info.peer_id, "quarantined")
        honest.transport.send(patterns.make(17))
        assert honest.agent.call("recv", timeout=10)[0]["length"] == 17
    child.kill_and_wait()
    counts.wait_all_free(host)
    counts.assert_full_capacity(honest.transport, host)


def test_a_slot_sent_twice_is_a_violation(stage: Stage) -> None:
    """A valid descriptor repeated: its generation is spent, the second one names nobody's slot."""
    host = stage.host(_config())
    link = stage.peer(host)
    link.agent.call("send", count=1, size=900)
    link.agent.call("repeat_last_descriptor", fds=[host.fileno()], peer_id=link.peer_id)
    link.transport.recv(timeout=PATIENCE).release()
    with pytest.raises((shmhub.ProtocolViolation, shmhub.PeerGoneError)):
        link.transport.recv(timeout=PATIENCE)
    assert host.statistics().violations >= 1
    link.kill()
    counts.wait_all_free(host)
