"""300 SIGKILLs at random moments: no slot lost, nothing corrupt, nothing delivered twice."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from typing import Any

import pytest

import shmhub
from tests.support import counts, patterns
from tests.support.environment import is_full_run
from tests.support.stage import Link, Stage, small
from tests.support.threads import run_in_thread

SIZES = [16, 240, 700, 5000, 60_000, 300_000]


def _kills() -> int:
    return 3000 if is_full_run() else 200


def _random_moment(rng: random.Random) -> None:
    """The kill must fall anywhere in the work: this pause is the randomness itself."""
    time.sleep(rng.random() * 0.02)


@pytest.mark.time_limit(240)
def test_kills_in_the_middle_of_alloc_and_free(stage: Stage, rng: random.Random) -> None:
    host = stage.host(small(max_peers=8))
    steady = stage.peer(host)
    victims = [_start_allocating(stage, host, rng) for _ in range(3)]
    for kill in range(_kills()):
        _random_moment(rng)
        index = rng.randrange(len(victims))
        victims[index].discard()
        victims[index] = _start_allocating(stage, host, rng)
        if kill % 50 == 49:
            _check_in_between(victims, steady)
    for victim in victims:
        victim.discard()
    counts.assert_full_capacity(steady.transport, host)
    assert host.statistics().violations == 0
    assert host.statistics().deaths == _kills() + len(victims)


def _start_allocating(stage: Stage, host: shmhub.HubHost, rng: random.Random) -> Link:
    link = stage.peer(host, transport=False)
    seed = rng.getrandbits(32)
    link.agent.start("alloc_free", sizes=SIZES, seed=seed, wait=rng.random() < 0.5).wait_begun()
    return link


def _check_in_between(victims: list[Link], steady: Link) -> None:
    """The hub works for those who live, whoever has just died."""
    for victim in victims:
        assert not victim.agent.child.has_ended(), victim.agent.child.read_stderr()
    steady.transport.send(patterns.make(200))
    assert steady.agent.call("recv", timeout=10)[0]["length"] == 200


class _Stream:
    """One peer life: both sides send and receive at once, until the peer is killed."""

    def __init__(self, stage: Stage, host: shmhub.HubHost, sender: int) -> None:
        self.link = stage.peer(host)
        self.sender = sender
        self.sent_ids: list[int] = []
        self.link.agent.start("stream_out", thread=True, sizes=SIZES, sender=sender)
        self.incoming = self.link.agent.start("stream_in", thread=True).wait_begun()
        self.receiving = run_in_thread(self._receive)
        self.sending = run_in_thread(self._send)

    def _receive(self) -> int:
        arrived = 0
        try:
            while True:
                with self.link.transport.recv() as frame:
                    patterns.check(frame.payload, sender=self.sender, sequence=arrived)
                    arrived += 1
        except shmhub.PeerGoneError as gone:
            assert not gone.clean
            self._check_undelivered(gone)
            return arrived

    def _check_undelivered(self, gone: shmhub.PeerGoneError) -> None:
        """What was never received is the end of what was sent: no hole, nothing made up."""
        missing = list(gone.undelivered)
        self.sending.join()
        if missing:
            assert self.sent_ids[-len(missing) :] == missing

    def _send(self) -> int:
        with contextlib.suppress(shmhub.PeerGoneError):
            while True:
                sequence = len(self.sent_ids)
                payload = patterns.make(SIZES[sequence % len(SIZES)], 0, sequence)
                self.sent_ids.append(self.link.transport.send(payload))
        return len(self.sent_ids)

    def kill(self) -> tuple[int, int]:
        assert not self.incoming.done(), self.incoming.answer
        self.link.kill()
        received = self.receiving.value()
        sent = self.sending.value()
        self.link.transport.close()
        self.link.discard()
        return received, sent


@pytest.mark.time_limit(240)
def test_kills_in_the_middle_of_streaming_in_both_directions(
    stage: Stage, rng: random.Random
) -> None:
    host = stage.host(small(max_peers=8))
    steady = stage.peer(host)
    moved = [0, 0]
    streams = [_Stream(stage, host, sender) for sender in range(2)]
    for number in range(_kills()):
        _random_moment(rng)
        index = number % 2
        received, sent = streams[index].kill()
        moved[0] += received
        moved[1] += sent
        streams[index] = _Stream(stage, host, number % 1000)
    for stream in streams:
        stream.kill()
    assert min(moved) > _kills(), f"hardly anything was streamed: {moved}"
    counts.assert_full_capacity(steady.transport, host)
    assert host.statistics().violations == 0


@pytest.mark.time_limit(120)
def test_kills_while_everyone_waits_for_slots(stage: Stage, rng: random.Random) -> None:
    """Waiters die while others wait: who lives must still be served."""
    host = stage.host(small(max_peers=16))
    steady = stage.peer(host)
    stopping = threading.Event()

    def hold_and_release() -> int:
        served = 0
        while not stopping.is_set():
            taken: list[Any] = []
            with contextlib.suppress(shmhub.HubTimeoutError):
                for _ in range(4):
                    taken.append(steady.transport.alloc(4 << 20, timeout=0.2))
                    served += 1
            for slot in taken:
                slot.release()
        return served

    holding = run_in_thread(hold_and_release)
    victims = [_start_waiting(stage, host, rng) for _ in range(4)]
    for _ in range(_kills() // 3):
        _random_moment(rng)
        index = rng.randrange(len(victims))
        victims[index].discard()
        victims[index] = _start_waiting(stage, host, rng)
    for victim in victims:
        victim.discard()
    stopping.set()
    assert holding.value() > 0
    counts.assert_full_capacity(steady.transport, host)


def _start_waiting(stage: Stage, host: shmhub.HubHost, rng: random.Random) -> Link:
    link = stage.peer(host, transport=False)
    link.agent.start(
        "alloc_free", sizes=[4 << 20], seed=rng.getrandbits(32), most_held=1, wait=True
    ).wait_begun()
    return link
