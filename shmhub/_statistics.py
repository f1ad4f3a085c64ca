"""What a hub and its transports have counted: named tuples, in the order of the core's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = [
    "HubStatistics",
    "PeerStatistics",
    "PeerStatus",
    "SizeClassStatistics",
    "TransportStatistics",
    "peer_name",
]


def peer_name(peer_id: int, name: str) -> str:
    """The name under which a peer is shown: its own, or one made of its id."""
    return name or ("host" if peer_id == 0 else f"peer-{peer_id}")


class SizeClassStatistics(NamedTuple):
    """The slots of one size class.

    `free + owned + in_ring + shared` is `slots` when nothing moves; looked at while messages pass,
    a slot on its way may be counted in the place it left or in the one it went to.
    """

    slot_size: int
    """Bytes a slot."""
    slots: int
    """In service now."""
    max_slots: int
    """As many as there may be once the class has grown."""
    backed: int
    """Slots with pages behind them."""
    free: int
    """Could be had now, backed or not."""
    owned: int
    """Held by the host or by a peer."""
    in_ring: int
    """Sent and not yet received."""
    shared: int
    """Held by several at once."""
    high_water: int
    """Slots that were ever used."""
    exhausted_count: int
    """How often this class had nothing to give."""


class PeerStatistics(NamedTuple):
    """Traffic of one peer, seen from that peer; the host is peer 0."""

    peer_id: int
    name: str
    state: str
    pid: int
    """0 until the peer has attached."""
    owned: int
    """Slots it holds."""
    sent: int
    received: int
    bytes_sent: int
    bytes_received: int
    rings_rung: int
    """How often it had to wake the other side."""
    waits: int
    """How often it slept."""


class PeerStatus(NamedTuple):
    """Where one peer stands.

    `state` is one of "reserved", "attaching", "active", "leaving", "hung_up", "quarantined",
    "dead".
    """

    peer_id: int
    name: str
    state: str
    pid: int
    """0 until the peer has attached."""
    epoch: int
    """Which life of this id it is: ids are used again."""


class TransportStatistics(NamedTuple):
    """What one transport has done since it was made."""

    sent: int
    received: int
    bytes_sent: int
    bytes_received: int
    rings_rung: int
    """How often the other side had to be woken."""
    waits: int
    """How often this side slept."""
    spins: int
    """How often it looked again for a while before sleeping."""
    spin_hits: int
    """How often that paid."""

    @classmethod
    def from_core(cls, raw: Mapping[str, int]) -> TransportStatistics:
        """From `_core.Transport.raw_statistics()`."""
        return cls(*(raw[field] for field in cls._fields))


class HubStatistics(NamedTuple):
    """A whole hub at one moment."""

    size_classes: tuple[SizeClassStatistics, ...]
    memory_bytes: int
    """What the kernel says the hub takes."""
    reclaimed: int
    """Slots taken back from dead peers."""
    violations: int
    """Times a peer wrote what no peer may write."""
    deaths: int
    detaches: int
    """Peers that left in good order."""
    peers: tuple[PeerStatistics, ...]

    @classmethod
    def from_core(cls, raw: Mapping[str, Any]) -> HubStatistics:
        """From `_core.Host.raw_statistics()`."""
        peers = (PeerStatistics(*peer) for peer in raw["peers"])
        return cls(
            size_classes=tuple(SizeClassStatistics(*one) for one in raw["size_classes"]),
            memory_bytes=raw["memory_bytes"],
            reclaimed=raw["reclaimed"],
            violations=raw["violations"],
            deaths=raw["deaths"],
            detaches=raw["detaches"],
            peers=tuple(peer._replace(name=peer_name(peer.peer_id, peer.name)) for peer in peers),
        )
