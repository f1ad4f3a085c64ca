"""Which slots of a hub are in use, and by whom: read from its file, slot by slot.

`HubHost.statistics` counts; a leak is found by its slot, its state and its owner. The offsets are
those of docs/layout.md. Reads only, and disturbs nobody: a slot that moves meanwhile is seen in the
place it left or in the one it went to.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from shmhub import HubHost

__all__ = ["SlotInUse", "slots_in_use"]

CLASS_COUNT_OFFSET = 24
CLASSES_OFFSET = 56
CLASS_BYTES = 256
META_BYTES = 16
CLASSES_MAX = 8

STATES = {1: "owned", 2: "in_ring", 3: "shared"}  # 0: free


class SlotInUse(NamedTuple):
    """One slot that is not free."""

    size_class: int
    """Number of the size class."""
    slot: int
    """Number of the slot in its class."""
    slot_size: int
    """Bytes."""
    generation: int
    """Goes up with every use of the slot, so that (size_class, slot, generation) is one use."""
    state: str
    """ "owned", "in_ring" or "shared"."""
    owner: str
    """Who has it, for people: "the host", "peer 2 'image' (pid 4711)", a ring."""

    @property
    def use(self) -> tuple[int, int, int]:
        """This use of the slot; the next one is another."""
        return self.size_class, self.slot, self.generation

    def __str__(self) -> str:
        what = {
            "owned": f"owned by {self.owner}",
            "in_ring": f"in_ring: sent and not received, {self.owner}",
        }.get(self.state, f"{self.state}, {self.owner}")
        return f"slot {self.size_class}:{self.slot} of {self.slot_size} bytes: {what}"


def slots_in_use(hub: HubHost) -> list[SlotInUse]:
    """Every slot of a hub that is not free, by class and number.

    Raises:
        HubClosedError: the hub is closed.
    """
    names = {0: "the host"}
    for peer in hub.peers:
        names[peer.peer_id] = f"peer {peer.peer_id} {peer.name!r} (pid {peer.pid})"
    return [
        SlotInUse(size_class, slot, size, generation, state, _owner(state, owner, names))
        for size_class, slot, size, generation, state, owner in _read(hub.fileno())
    ]


def _owner(state: str, owner: int, names: dict[int, str]) -> str:
    if state == "owned":
        return names.get(owner, f"peer {owner}")
    if state == "in_ring":
        peer_id, down = divmod(owner, 2)
        peer = names.get(peer_id, f"peer {peer_id}")
        return f"from the host to {peer}" if down else f"from {peer} to the host"
    return "by several"


def _read(fd: int) -> Iterator[tuple[int, int, int, int, str, int]]:
    """(class, slot, bytes, generation, state, owner) of each that is not free."""
    count = min(_number(fd, "<I", CLASS_COUNT_OFFSET), CLASSES_MAX)
    table = _number(fd, "<Q", CLASSES_OFFSET)
    for number in range(count):
        entry = table + number * CLASS_BYTES
        slot_size = _number(fd, "<Q", entry)
        meta = _number(fd, "<Q", entry + 16)
        most = _number(fd, "<I", entry + 44)
        in_service = min(_number(fd, "<I", entry + 192), most)
        words = os.pread(fd, in_service * META_BYTES, meta)
        for slot, (ctl, _, _) in enumerate(struct.iter_unpack("<QII", words)):
            state = STATES.get(ctl >> 16 & 0x7F)
            if state is not None:
                yield number, slot, slot_size, ctl >> 32, state, ctl & 0xFFFF


def _number(fd: int, code: str, offset: int) -> int:
    (value,) = struct.unpack(code, os.pread(fd, struct.calcsize(code), offset))
    return int(value)
