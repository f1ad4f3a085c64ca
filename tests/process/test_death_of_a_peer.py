"""Sender or receiver killed: published arrives, unread is known, all slots come back."""

from __future__ import annotations

import random
from typing import Any

import pytest

import shmhub
from tests.support import counts, patterns
from tests.support.environment import PATIENCE
from tests.support.stage import Stage, fixed, small

MIXED = [0, 16, 17, 100, 240, 241, 1024, 5000, 16 * 1024, 100_000, 1 << 20]


def _receive_all(transport: Any) -> tuple[list[tuple[int, bytes]], shmhub.PeerGoneError]:
    """Everything that still arrives, and the end."""
    arrived = []
    while True:
        try:
            with transport.recv(timeout=PATIENCE) as frame:
                arrived.append((frame.message_id, bytes(frame)))
        except shmhub.PeerGoneError as gone:
            return arrived, gone


@pytest.mark.parametrize("executed", [False, True], ids=["forked", "executed"])
def test_everything_a_killed_sender_published_arrives_intact(stage: Stage, executed: bool) -> None:
    host = stage.host(small())
    link = stage.peer(host, executed=executed)
    ids = link.agent.call("send", count=len(MIXED), sizes=MIXED, sender=3)
    link.kill()
    arrived, gone = _receive_all(link.transport)
    assert [message_id for message_id, _ in arrived] == ids
    for sequence, (_, payload) in enumerate(arrived):
        assert payload == patterns.make(MIXED[sequence], 3, sequence)
    assert (gone.clean, gone.peer_id, gone.undelivered) == (False, link.peer_id, ())
    counts.wait_all_free(host)


def test_a_full_ring_of_a_killed_sender_arrives_intact(stage: Stage) -> None:
    host = stage.host(fixed((1024, 64), ring_capacity=32))
    for size in (16, 240, 1000):
        link = stage.peer(host)
        ids = link.agent.call("send_until_full", size=size)
        assert len(ids) >= 5
        link.kill()
        counts.wait_gone(host, link.peer_id)
        arrived, _gone = _receive_all(link.transport)
        assert [message_id for message_id, _ in arrived] == ids
        for sequence, (_, payload) in enumerate(arrived):
            patterns.check(payload, sender=0, sequence=sequence)
    counts.wait_all_free(host)


def test_unread_messages_outlast_the_next_life_of_the_id(stage: Stage) -> None:
    """The earlier hub delivered a dead peer's messages with the bytes of the id's next owner."""
    host = stage.host(small(max_peers=2))
    first = stage.peer(host)
    first.agent.call("send", count=8, size=1000, sender=1)
    first.kill()
    counts.wait_gone(host, first.peer_id)
    second = stage.peer(host)
    assert second.peer_id == first.peer_id
    second.agent.call("send", count=8, size=1000, sender=2)
    for sender, transport in ((2, second.transport), (1, first.transport)):
        for sequence in range(8):
            with transport.recv(timeout=PATIENCE) as frame:
                patterns.check(frame.payload, sender=sender, sequence=sequence)
    with pytest.raises(shmhub.PeerGoneError):
        first.transport.recv(timeout=PATIENCE)
    with pytest.raises(shmhub.PeerGoneError):
        first.transport.send(b"to nobody")
    second.transport.send(b"to the second")
    assert second.agent.call("recv", timeout=10)[0]["bytes"] == b"to the second"
    second.kill()
    counts.wait_all_free(host)


def test_a_transport_made_after_the_death_belongs_to_the_life_that_ended(stage: Stage) -> None:
    host = stage.host(small(max_peers=2))
    first = stage.peer(host, transport=False)
    first.agent.call("send", count=3, size=1000, sender=1)
    first.kill()
    counts.wait_gone(host, first.peer_id)
    second = stage.peer(host)
    late = stage.later(shmhub.HubHostPeerTransport(host, first.info.peer_id, first.info.doorbell))
    arrived, gone = _receive_all(late)
    assert len(arrived) == 3
    assert not gone.clean
    second.transport.send(b"still ours")
    assert second.agent.call("recv", timeout=10)[0]["bytes"] == b"still ours"


def test_a_killed_receiver_gives_everything_back_and_the_unread_ids_are_known(
    stage: Stage, rng: random.Random
) -> None:
    host = stage.host(small())
    for _round in range(10):
        link = stage.peer(host)
        total = rng.randrange(1, 12)
        read = rng.randrange(total + 1)
        ids = [
            link.transport.send(patterns.make(rng.choice(MIXED[:9]), 0, number))
            for number in range(total)
        ]
        received = link.agent.call("recv", count=read, hold=True, timeout=10)
        assert [frame["message_id"] for frame in received] == ids[:read]
        link.agent.call("alloc", nbytes=5000, count=2)
        link.kill()
        with pytest.raises(shmhub.PeerGoneError) as gone:
            link.transport.recv(timeout=PATIENCE)
        assert gone.value.undelivered == tuple(ids[read:])
        counts.wait_all_free(host)
    counts.assert_full_capacity(stage.peer(host).transport, host)


def test_ids_chosen_by_the_application_are_the_ones_reported(stage: Stage) -> None:
    host = stage.host(small())
    link = stage.peer(host)
    chosen = [0, 1, 2**63, 2**64 - 1, 7, 7]
    for message_id in chosen:
        link.transport.send(b"z" * 300, message_id=message_id)
    link.kill()
    with pytest.raises(shmhub.PeerGoneError) as gone:
        link.transport.recv(timeout=PATIENCE)
    assert gone.value.undelivered == tuple(chosen)


def test_all_peers_at_once_each_death_is_told_once_and_nothing_is_mixed_up(stage: Stage) -> None:
    host = stage.host(fixed((1024, 256)))
    transport = stage.later(shmhub.HubHostTransport(host))
    links = [stage.peer(host, transport=False) for _ in range(5)]
    sent = {}
    for link in links:
        sent[link.peer_id] = transport.send(patterns.make(600), to=link.peer_id)
        link.agent.call("send", count=6, size=900, sender=link.peer_id)
    for link in links[:4]:
        link.kill()
    gone: dict[int, shmhub.PeerGoneError] = {}
    next_of = dict.fromkeys(sent, 0)
    while len(gone) < 4 or sum(next_of.values()) < 30:
        try:
            with transport.recv(timeout=PATIENCE) as frame:
                assert frame.peer_id not in gone, "a message after the end of its sender"
                patterns.check(frame.payload, sender=frame.peer_id, sequence=next_of[frame.peer_id])
                next_of[frame.peer_id] += 1
        except shmhub.PeerGoneError as error:
            assert error.peer_id is not None and error.peer_id not in gone
            assert error.undelivered == (sent[error.peer_id],)
            gone[error.peer_id] = error
    assert set(gone) == {link.peer_id for link in links[:4]}
    assert set(next_of.values()) == {6}
    with pytest.raises(shmhub.WouldBlockError):
        transport.recv_nowait()
    links[4].agent.call("recv", timeout=10)
    counts.wait_all_free(host)


def test_deaths_are_called_back_instead_when_asked_for(stage: Stage) -> None:
    host = stage.host(small())
    told: list[Any] = []
    transport = stage.later(shmhub.HubHostTransport(host, on_peer_gone=told.append))
    doomed, alive = stage.peer(host, transport=False), stage.peer(host, transport=False)
    ids = [transport.send(b"u" * 500, to=doomed.peer_id) for _ in range(3)]
    doomed.kill()
    counts.wait_gone(host, doomed.peer_id)
    alive.agent.call("send", count=1)
    with transport.recv(timeout=PATIENCE) as frame:
        assert frame.peer_id == alive.peer_id
    with pytest.raises(shmhub.HubTimeoutError):
        transport.recv(timeout=0.2)
    assert [(error.peer_id, error.undelivered) for error in told] == [(doomed.peer_id, tuple(ids))]


def test_a_frame_passed_on_survives_its_first_sender(stage: Stage) -> None:
    host = stage.host(small())
    first, second = stage.peer(host), stage.peer(host)
    first.agent.call("send", count=1, size=100_000, sender=9)
    frame = first.transport.recv(timeout=PATIENCE)
    first.kill()
    counts.wait_gone(host, first.peer_id)
    second.transport.send(frame)
    received = second.agent.call("recv", timeout=10)[0]
    assert (received["sender"], received["length"]) == (9, 100_000)
    counts.wait_all_free(host)


def test_a_peer_that_hangs_up_but_lives_keeps_what_it_holds(stage: Stage) -> None:
    """Its slots could still be written to: only the end of the process gives them back."""
    host = stage.host(small())
    link = stage.peer(host)
    link.agent.call("alloc", nbytes=1000, count=3)
    fds = link.agent.call("descriptors")
    link.agent.call("shut_down_sockets", numbers=list(fds))
    with pytest.raises(shmhub.PeerGoneError):
        link.transport.recv(timeout=PATIENCE)
    counts.wait_state(host, link.peer_id, "hung_up")
    assert counts.total(host, "owned") == 3
    assert link.agent.call("pid") > 0
    link.kill()
    counts.wait_all_free(host)


def test_statistics_tell_of_deaths_and_of_what_was_taken_back(stage: Stage) -> None:
    host = stage.host(small())
    before = host.statistics()
    link = stage.peer(host)
    link.agent.call("alloc", nbytes=1000, count=3)
    link.kill()
    counts.wait_gone(host, link.peer_id)
    after = host.statistics()
    assert after.deaths == before.deaths + 1
    assert after.reclaimed >= before.reclaimed + 3
    assert after.violations == before.violations
