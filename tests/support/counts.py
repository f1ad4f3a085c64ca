"""The state of a hub's pool, and the proof that every slot is back where it belongs."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.support.environment import PATIENCE
from tests.support.waiting import until, until_equal


class ClassCount(NamedTuple):
    """Where the slots of one class are."""

    slot_size: int
    slots: int
    free: int
    owned: int
    in_ring: int
    shared: int


def pool(host: Any) -> list[ClassCount]:
    """One entry a class, for a hub that is at rest."""
    return [
        ClassCount(c.slot_size, c.slots, c.free, c.owned, c.in_ring, c.shared)
        for c in host.statistics().size_classes
    ]


def total(host: Any, field: str) -> int:
    """The sum of one field over all classes."""
    return sum(getattr(entry, field) for entry in pool(host))


def wait_all_free(host: Any, *, patience: float = PATIENCE) -> None:
    """Every slot is free. Waits, because a reclaim may be under way."""

    def away() -> list[ClassCount]:
        return [entry for entry in pool(host) if entry.free != entry.slots or entry.owned]

    until_equal(away, [], "every slot to be free", patience=patience)


def assert_full_capacity(transport: Any, host: Any) -> None:
    """Every slot of every class can really be had, not only counted as free."""
    wait_all_free(host)
    taken = []
    try:
        for entry in sorted(pool(host), key=lambda entry: -entry.slot_size):
            for _ in range(entry.slots):
                slot = transport.alloc_nowait(entry.slot_size)
                taken.append(slot)
                assert slot.capacity == entry.slot_size, (slot, entry)
                slot.write(b"x")
    finally:
        for slot in taken:
            slot.release()
    wait_all_free(host)


def peer_state(host: Any, peer_id: int) -> str | None:
    """The state of one peer; None when its id is free."""
    for peer in host.peers:
        if peer.peer_id == peer_id:
            return str(peer.state)
    return None


def wait_state(host: Any, peer_id: int, *states: str | None) -> None:
    until(lambda: peer_state(host, peer_id) in states, f"peer {peer_id} to be {states}")


def wait_gone(host: Any, peer_id: int) -> None:
    """Waits until the peer's process is known to be gone and its id is free for a next life."""
    wait_state(host, peer_id, None, "dead")
