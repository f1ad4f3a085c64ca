"""The soak's oracle finds what it is there to find: each thing that must not happen is made up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import shmhub
from tests.soak import capacity
from tests.soak.board import Board, Field, State
from tests.soak.ledger import Kind, Ledger, Wrong
from tests.soak.messages import BATCH, CAP, CLASSES, Identity, Method, configuration
from tests.support.patterns import WrongPayload


@dataclass
class _Frame:
    """As much of a frame as the ledger looks at."""

    message_id: int
    method: int = Method.PLAIN


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    yield board
    board.close()


@pytest.fixture
def ledger(board: Board) -> Ledger:
    return Ledger(7, Kind.PYTHON, board.take())


def _gone(*undelivered: int) -> shmhub.PeerGoneError:
    return shmhub.PeerGoneError("gone", peer_id=1, clean=False, undelivered=undelivered)


def _receive(ledger: Ledger, identity: Identity) -> None:
    ledger.identify(_Frame(identity.message_id))  # type: ignore[arg-type]
    ledger.count_received()


def _up(sequence: int, life: int = 7) -> Identity:
    return Identity(life, False, sequence)


def test_an_id_and_its_message_are_the_same_thing() -> None:
    identity = Identity((1 << 31) - 1, True, (1 << 32) - 1)
    assert Identity.of(identity.message_id) == identity
    assert identity.message_id < 1 << 64


@pytest.mark.parametrize("wrong", [_up(1), _up(3), _up(2, life=8), Identity(7, True, 2)])
def test_twice_a_gap_anothers_and_the_wrong_direction(ledger: Ledger, wrong: Identity) -> None:
    _receive(ledger, _up(1))
    with pytest.raises(Wrong):
        _receive(ledger, wrong)
    _receive(ledger, _up(2))


def test_a_payload_of_another_message_is_wrong() -> None:
    for length in (0, 5, 16, 5000):
        _up(3).check(_up(3).payload(length))
        if length:
            for other in (_up(4), _up(3, life=8), Identity(7, True, 3)):
                with pytest.raises(WrongPayload):
                    _up(3).check(other.payload(length))
    damaged = bytearray(_up(3).payload(5000))
    damaged[4321] ^= 1
    with pytest.raises(WrongPayload):
        _up(3).check(damaged)


def test_what_was_published_and_never_came(ledger: Ledger) -> None:
    _receive(ledger, _up(1))
    ledger.record[Field.UP_ATTEMPTED] = 3
    ledger.record[Field.UP_PUBLISHED] = 2
    with pytest.raises(Wrong, match="2 messages were published"):
        ledger.close(_gone())


def test_what_came_and_was_never_tried(ledger: Ledger) -> None:
    _receive(ledger, _up(1))
    with pytest.raises(Wrong, match="0 tried"):
        ledger.close(_gone())


def test_a_message_in_the_making_may_come_or_not(ledger: Ledger) -> None:
    _receive(ledger, _up(1))
    ledger.record[Field.UP_ATTEMPTED] = 2
    ledger.record[Field.UP_PUBLISHED] = 1
    ledger.close(_gone())
    assert ledger.closed


def _send(ledger: Ledger, count: int) -> list[int]:
    ids = []
    for _ in range(count):
        ids.append(ledger.next_down().message_id)
        ledger.count_sent(ids[-1], own=True)
    return ids


def test_undelivered_must_be_the_end_of_what_was_sent(ledger: Ledger) -> None:
    ids = _send(ledger, 5)
    ledger.record[Field.RECEIVED] = 3
    for wrong in (ids[2:4], ids[:2], [ids[4], ids[3]], [*ids[3:], 99]):
        with pytest.raises(Wrong):
            ledger.close(_gone(*wrong))
    ledger.close(_gone(*ids[3:]))


def test_what_was_neither_seen_nor_listed_is_lost(ledger: Ledger) -> None:
    _send(ledger, BATCH + 2)
    ledger.record[Field.RECEIVED] = 1
    with pytest.raises(Wrong, match="the peer has seen 1"):
        ledger.close(_gone())


def test_what_was_seen_must_not_be_listed(ledger: Ledger) -> None:
    ids = _send(ledger, 3)
    ledger.record[Field.RECEIVED] = 3
    with pytest.raises(Wrong, match="the peer has seen 3"):
        ledger.close(_gone(ids[2]))


def test_a_liar_is_not_believed_and_not_blamed(ledger: Ledger) -> None:
    ledger.record[Field.STATE] = State.LYING
    ledger.record[Field.UP_PUBLISHED] = 1000
    ledger.close(_gone(1, 2, 3))


def test_a_slot_that_somebody_keeps_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "PATIENCE", 0.05)
    with (
        shmhub.HubHost.create(None, configuration()) as host,
        shmhub.HubHostTransport(host) as transport,
    ):
        proof = capacity.prove(host, transport)
        assert proof.slots == sum(most for _, _, most in CLASSES)
        assert proof.taken < CAP
        for size, _, _ in CLASSES:
            with transport.alloc(size), pytest.raises(Wrong, match="not free"):
                capacity.prove(host, transport)
        assert capacity.prove(host, transport).slots == proof.slots
