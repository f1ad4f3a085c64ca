"""A hypothesis state machine: a host and peers in other processes against the reference model.

One step at a time, so that every outcome is determined: what must succeed, what must be refused and
with which error, what arrives where, how many slots are in use after each step.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import shmhub
from tests.model.reference import Holding, HubModel, Message, PeerModel, cells_of
from tests.support import counts, patterns
from tests.support.environment import is_full_run
from tests.support.nursery import Nursery
from tests.support.stage import Link, Stage, fixed

CLASSES = ((1024, 6), (16384, 3), (262144, 2))
RING = 16
MOST_PEERS = 4

SIZES = st.sampled_from([0, 1, 16, 17, 100, 240, 241, 1000, 1024, 5000, 16384, 100_000])
PICK = st.integers(0, 1000)


class HubMachine(RuleBasedStateMachine):
    """Each rule does one thing for real and in the model, and compares."""

    def __init__(self, nursery: Nursery) -> None:
        super().__init__()
        self.stage = Stage(nursery)
        self.host = self.stage.host(fixed(*CLASSES, max_peers=MOST_PEERS + 2, ring_capacity=RING))
        # The host allocates through any of its transports: here that of a peer that never attaches.
        nobody = self.host.add_peer("nobody")
        self.own = self.stage.later(
            shmhub.HubHostPeerTransport(self.host, nobody.peer_id, nobody.doorbell)
        )
        self.model = HubModel()
        self.links: list[Link] = []

    def teardown(self) -> None:
        self.stage.close()

    # Choosing

    def _pairs(self, *, alive: bool = True) -> list[tuple[Link, PeerModel]]:
        pairs = list(zip(self.links, self.model.peers, strict=True))
        return [(link, peer) for link, peer in pairs if (peer.ended is None) or not alive]

    def _choose(self, pick: int, *, alive: bool = True) -> tuple[Link, PeerModel]:
        pairs = self._pairs(alive=alive)
        return pairs[pick % len(pairs)]

    def _slot_is_free(self, length: int) -> bool:
        return any(entry.free for entry in counts.pool(self.host) if entry.slot_size >= length)

    # Peers come and go

    @precondition(lambda self: len(self._pairs()) < MOST_PEERS)
    @rule()
    def a_peer_attaches(self) -> None:
        self.links.append(self.stage.peer(self.host))
        self.model.peers.append(PeerModel(RING))

    @precondition(lambda self: self._pairs())
    @rule(pick=PICK)
    def a_peer_is_killed(self, pick: int) -> None:
        link, peer = self._choose(pick)
        link.kill()
        counts.wait_gone(self.host, link.peer_id)
        peer.end("killed")

    @precondition(lambda self: self._pairs())
    @rule(pick=PICK)
    def a_peer_leaves(self, pick: int) -> None:
        link, peer = self._choose(pick)
        link.agent.call("release")
        link.agent.call("close_transport")
        link.agent.leave()
        counts.wait_gone(self.host, link.peer_id)
        peer.end("left")

    # Messages

    @precondition(lambda self: self._pairs(alive=False))
    @rule(pick=PICK, length=SIZES)
    def the_host_sends(self, pick: int, length: int) -> None:
        link, peer = self._choose(pick, alive=False)
        sequence = self.model.next_sequence()
        in_slot = length > 240
        payload = patterns.make(length, 0, sequence)
        if peer.ended:
            with pytest.raises(shmhub.PeerGoneError):
                link.transport.send_nowait(payload)
            return
        refusals = self._refusals(peer.room_to_peer(cells_of(length, in_slot=in_slot)), length)
        try:
            message_id = link.transport.send_nowait(payload)
        except (shmhub.RingFullError, shmhub.SlotsExhaustedError) as refused:
            assert isinstance(refused, tuple(refusals)), (refused, refusals)
            return
        assert not refusals, f"should have been refused: {refusals}"
        peer.to_peer.append(Message(message_id, 0, sequence, length, in_slot))

    def _refusals(self, room: bool, length: int) -> list[type[Exception]]:
        """The errors that the state of ring and pool demands, if any."""
        refusals: list[type[Exception]] = []
        if not room:
            refusals.append(shmhub.RingFullError)
        if length > 240 and not self._slot_is_free(length):
            refusals.append(shmhub.SlotsExhaustedError)
        return refusals

    @precondition(lambda self: self._pairs())
    @rule(pick=PICK, length=SIZES)
    def a_peer_sends(self, pick: int, length: int) -> None:
        link, peer = self._choose(pick)
        sequence = self.model.next_sequence()
        in_slot = length > 240
        refusals = self._refusals(peer.room_to_host(cells_of(length, in_slot=in_slot)), length)
        try:
            (message_id,) = link.agent.call(
                "send", size=length, sender=link.peer_id, first=sequence, nowait=True
            )
        except (shmhub.RingFullError, shmhub.SlotsExhaustedError) as refused:
            assert isinstance(refused, tuple(refusals)), (refused, refusals)
            return
        assert not refusals, f"should have been refused: {refusals}"
        peer.to_host.append(Message(message_id, link.peer_id, sequence, length, in_slot))

    @precondition(lambda self: self._pairs(alive=False))
    @rule(pick=PICK, hold=st.booleans())
    def the_host_receives(self, pick: int, hold: bool) -> None:
        link, peer = self._choose(pick, alive=False)
        if not peer.to_host:
            self._nothing_for_the_host(link, peer)
            return
        expected = peer.to_host.popleft()
        frame = link.transport.recv_nowait()
        assert frame.message_id == expected.message_id
        patterns.check(frame.payload, sender=expected.sender, sequence=expected.sequence)
        assert len(frame) == expected.length
        if hold:
            self.model.host_holds.append(
                Holding(
                    frame, expected.sender, expected.sequence, expected.length, expected.in_slot
                )
            )
        else:
            frame.release()

    def _nothing_for_the_host(self, link: Link, peer: PeerModel) -> None:
        if peer.ended is None:
            with pytest.raises(shmhub.WouldBlockError):
                link.transport.recv_nowait()
            return
        with pytest.raises(shmhub.PeerGoneError) as gone:
            link.transport.recv_nowait()
        assert gone.value.clean is (peer.ended == "left")
        assert list(gone.value.undelivered) == peer.undelivered

    @precondition(lambda self: self._pairs())
    @rule(pick=PICK, hold=st.booleans())
    def a_peer_receives(self, pick: int, hold: bool) -> None:
        link, peer = self._choose(pick)
        if not peer.to_peer:
            with pytest.raises(shmhub.HubTimeoutError):
                link.agent.call("recv", timeout=0)
            return
        expected = peer.to_peer.popleft()
        (received,) = link.agent.call("recv", timeout=0, hold=hold)
        assert received["message_id"] == expected.message_id
        if expected.length >= patterns.HEADER.size:
            assert received["sequence"] == expected.sequence
            assert received["sender"] == expected.sender
        else:
            made = patterns.make(expected.length, expected.sender, expected.sequence)
            assert received["bytes"] == made
        if hold:
            peer.held.append(
                Holding(
                    received["key"],
                    expected.sender,
                    expected.sequence,
                    expected.length,
                    expected.in_slot,
                )
            )

    # Holding, passing on, giving back

    @precondition(lambda self: self.model.host_holds)
    @rule(pick=PICK)
    def the_host_gives_back(self, pick: int) -> None:
        holds = self.model.host_holds
        holding = holds.pop(pick % len(holds))
        thing: Any = holding.key
        with memoryview(thing) as view:
            patterns.check(view, sender=holding.sender, sequence=holding.sequence)
        thing.release()

    @precondition(lambda self: any(peer.held for _, peer in self._pairs()))
    @rule(pick=PICK)
    def a_peer_gives_back(self, pick: int) -> None:
        pairs = [(link, peer) for link, peer in self._pairs() if peer.held]
        link, peer = pairs[pick % len(pairs)]
        holding = peer.held.pop(pick % len(peer.held))
        if holding.length >= patterns.HEADER.size:
            link.agent.call("check_held", key=holding.key, sequence=holding.sequence)
        link.agent.call("release", keys=[holding.key])

    @rule(length=st.sampled_from([100, 1024, 5000, 100_000]))
    def the_host_allocates(self, length: int) -> None:
        possible = self._slot_is_free(length)
        try:
            slot = self.own.alloc_nowait(length)
        except shmhub.SlotsExhaustedError:
            assert not possible
            return
        assert possible
        sequence = self.model.next_sequence()
        slot.write(patterns.make(length, 0, sequence))
        self.model.host_holds.append(Holding(slot, 0, sequence, length, True))

    @precondition(lambda self: self._pairs())
    @rule(pick=PICK, length=st.sampled_from([100, 1024, 5000, 100_000]))
    def a_peer_allocates(self, pick: int, length: int) -> None:
        link, peer = self._choose(pick)
        possible = self._slot_is_free(length)
        try:
            (key,) = link.agent.call("alloc", nbytes=length, timeout=0)
        except (shmhub.HubTimeoutError, shmhub.SlotsExhaustedError):
            assert not possible
            return
        assert possible
        peer.held.append(Holding(key, 0, key, length, True))

    @precondition(lambda self: self.model.host_holds and self._pairs())
    @rule(pick=PICK)
    def the_host_passes_on(self, pick: int) -> None:
        """A held frame or slot goes to a peer without a copy."""
        link, peer = self._choose(pick)
        holds = self.model.host_holds
        holding = holds[pick % len(holds)]
        room = peer.room_to_peer(cells_of(holding.length, in_slot=holding.in_slot))
        try:
            message_id = link.transport.send_nowait(holding.key)
        except shmhub.RingFullError:
            assert not room
            return
        assert room
        holds.remove(holding)
        peer.to_peer.append(
            Message(message_id, holding.sender, holding.sequence, holding.length, holding.in_slot)
        )

    @precondition(lambda self: any(peer.held for _, peer in self._pairs()))
    @rule(pick=PICK)
    def a_peer_passes_back(self, pick: int) -> None:
        pairs = [(link, peer) for link, peer in self._pairs() if peer.held]
        link, peer = pairs[pick % len(pairs)]
        holding = peer.held[pick % len(peer.held)]
        room = peer.room_to_host(cells_of(holding.length, in_slot=holding.in_slot))
        try:
            message_id = link.agent.call("forward", key=holding.key, timeout=0)
        except (shmhub.RingFullError, shmhub.HubTimeoutError):
            assert not room
            return
        assert room
        peer.held.remove(holding)
        peer.to_host.append(
            Message(message_id, holding.sender, holding.sequence, holding.length, holding.in_slot)
        )

    # The pool as a whole

    @rule()
    def the_host_trims(self) -> None:
        self.host.trim()

    @rule()
    def everything_free_can_be_had(self) -> None:
        free = counts.total(self.host, "free")
        taken = []
        with pytest.raises(shmhub.SlotsExhaustedError):
            while True:
                taken.append(self.own.alloc_nowait(1))
        assert len(taken) == free
        for slot in taken:
            slot.release()

    @invariant()
    def every_slot_is_in_one_place(self) -> None:
        pool = counts.pool(self.host)
        for entry in pool:
            assert entry.free + entry.owned + entry.in_ring + entry.shared == entry.slots, entry
        in_use = sum(entry.owned + entry.in_ring for entry in pool)
        assert in_use == self.model.slots_in_use(), (pool, self.model)

    @invariant()
    def nobody_broke_the_protocol(self) -> None:
        assert self.host.statistics().violations == 0


@pytest.mark.time_limit(900)
def test_hosts_and_peers_against_the_reference_model(nursery: Nursery, leak_check: None) -> None:
    run_state_machine_as_test(
        lambda: HubMachine(nursery),
        settings=settings(
            max_examples=400 if is_full_run() else 100,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            database=None,
        ),
    )
