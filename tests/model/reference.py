"""The reference model: what a hub must do, in a few plain lists. Knows nothing of shared memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

INLINE_MAX = 240
IN_DESCRIPTOR = 16
CELL = 64


def cells_of(length: int, *, in_slot: bool) -> int:
    """Ring cells that a message takes."""
    if in_slot or length <= IN_DESCRIPTOR:
        return 1
    return 1 + -(-length // CELL)


@dataclass
class Message:
    """One message on its way."""

    message_id: int
    sender: int
    sequence: int
    length: int
    in_slot: bool

    @property
    def cells(self) -> int:
        return cells_of(self.length, in_slot=self.in_slot)


@dataclass
class Holding:
    """A frame or a slot that somebody holds."""

    key: object
    sender: int
    sequence: int
    length: int
    in_slot: bool


@dataclass
class PeerModel:
    """One life of a peer."""

    capacity: int
    to_peer: deque[Message] = field(default_factory=deque)
    to_host: deque[Message] = field(default_factory=deque)
    held: list[Holding] = field(default_factory=list)
    ended: str | None = None  # "killed" or "left"
    undelivered: list[int] = field(default_factory=list)

    def room_to_peer(self, cells: int) -> bool:
        return sum(message.cells for message in self.to_peer) + cells <= self.capacity

    def room_to_host(self, cells: int) -> bool:
        return sum(message.cells for message in self.to_host) + cells <= self.capacity

    def end(self, how: str) -> None:
        """Dead or gone: what it held is free, what it never read is known, what it sent stays."""
        self.ended = how
        self.undelivered = [message.message_id for message in self.to_peer]
        self.to_peer.clear()
        self.held.clear()

    def slots_in_use(self) -> int:
        things = [*self.to_peer, *self.to_host, *self.held]
        return sum(thing.in_slot for thing in things)


@dataclass
class HubModel:
    """A host, its peers and what the host itself holds."""

    peers: list[PeerModel] = field(default_factory=list)
    host_holds: list[Holding] = field(default_factory=list)
    sequence: int = 0

    def next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence

    def slots_in_use(self) -> int:
        return sum(peer.slots_in_use() for peer in self.peers) + sum(
            holding.in_slot for holding in self.host_holds
        )
