"""A peer that tells the truth for a while, then writes where it must not, until it is killed.

It damages what a lying peer can damage without touching what belongs to others: its own rings,
cells, lane and table entry; the state of slots that it holds; the free lists and the links in them,
which are hints to everybody; the words in which everybody sets bits. Whoever is honest must not
notice. Damage to other peers'
messages is detected, not prevented (docs/protocol.md), so it has no place where every message is
checked: `tests/process/test_scribbling_peer.py` and `make fuzz` do that.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from typing import Any

import shmhub
from tests.soak.board import Board, Field, Order, State
from tests.soak.peer import Receiver, Sender, attach, try_once
from tests.support.hub_file import CELL, SLOT_META, Header, Region
from tests.support.scribbler import damage

_OWN = ("lane", "ring up", "cells up", "ring down", "cells down", "peer entry")
_LISTS = ("hot list", "cold list", "holders of class")
_PAUSE = 0.0003  # so that lying does not take all of a core from the honest
_MOST_DISOWNED = 3  # a life
_NEXT = 8  # offset of the link in a slot's bookkeeping


class Liar:
    """What one lying peer writes to."""

    def __init__(self, header: Header, peer_id: int, transport: Any, rng: random.Random) -> None:
        self._header = header
        self._transport = transport
        self._rng = rng
        self._disowned: list[shmhub.Slot] = []
        regions = header.regions(peer_id)
        self._damaged = [one for one in regions if one.name.startswith((*_OWN, *_LISTS))]
        self._slots = [one for one in regions if one.name.startswith("slots of class")]
        (self._signals,) = [one for one in regions if one.name == "signals"]
        (self._up,) = [one for one in regions if one.name == "ring up"]
        (self._cells,) = [one for one in regions if one.name == "cells up"]

    def lie(self) -> None:
        how = self._rng.randrange(9)
        if how < 4:
            damage(self._header, self._rng.choice(self._damaged), self._rng)
        elif how < 6:
            self._bend_a_link(self._rng.choice(self._slots))
        elif how == 6:
            self._raise_false_alarm()
        elif how == 7:
            self._forge()
        elif len(self._disowned) < _MOST_DISOWNED:
            self._disown_a_slot()

    def _bend_a_link(self, slots: Region) -> None:
        """`next` of any slot: circles, dead ends, slots that are somebody's."""
        count = slots.length // SLOT_META
        index = self._rng.randrange(count)
        after = self._rng.choice((index, self._rng.randrange(count), 0xFFFFFF, 0xFFFFFFFF))
        struct.pack_into("<I", self._header.map, slots.start + index * SLOT_META + _NEXT, after)

    def _raise_false_alarm(self) -> None:
        """Bits of `pool_waiters` and `ready` for peers that neither wait nor have anything."""
        at = self._signals.start + self._rng.choice((0, 64))
        (word,) = struct.unpack_from("<Q", self._header.map, at)
        struct.pack_into("<Q", self._header.map, at, word | 1 << self._rng.randrange(64))

    def _disown_a_slot(self) -> None:
        """A slot of its own gets a state that there is not, or an owner who is nobody.

        None of them comes back by the liar's death: that takes `HubHost.fsck`.
        """
        slot = self._transport.alloc_nowait(self._rng.choice((500, 5000, 50_000)))
        self._disowned.append(slot)
        number, index, _generation = slot.reference
        at = self._slots[number].start + index * SLOT_META
        (ctl,) = struct.unpack_from("<Q", self._header.map, at)
        state, owner = self._rng.choice(((1, 60), (2, 126), (4, 0), (127, 65535), (0, 7)))
        struct.pack_into("<Q", self._header.map, at, ctl & ~0x7FFFFF | state << 16 | owner)

    def _forge(self) -> None:
        """A descriptor that names any slot, published."""
        (tail,) = struct.unpack_from("<Q", self._header.map, self._up.start)
        cell = self._cells.start + tail % (self._cells.length // CELL) * CELL
        reference = self._rng.randrange(5) << 29 | self._rng.randrange(64)
        fields = (0, 0, 0, 0, 0, reference, self._rng.randrange(50), self._rng.randrange(2000))
        forged = struct.pack("<QqIHHIIQHHI16s", *fields, 1, 0, tail & 0xFFFFFFFF, b"")
        self._header.map[cell : cell + CELL] = forged
        struct.pack_into("<Q", self._header.map, self._up.start, (tail + 1) % (1 << 64))


def run(
    *, fds: dict[str, int], peer_id: int, record: int, life: int, seed: int, truths: int
) -> int:
    """Honest for `truths` actions, then a liar for as long as it is let live."""
    rng = random.Random(seed)
    board = Board(fds["board"])
    mine = board.record(record)
    bell = socket.socket(fileno=os.dup(fds["doorbell"]))
    header = Header(fds["hub"])
    _peer, transport = attach(fds, peer_id, f"liar-{life}")
    mine[Field.STATE] = State.ATTACHED
    receiver = Receiver(transport, mine, life, rng)
    sender = Sender(transport, mine, life, rng)
    for _ in range(truths):
        if board.told(Order.STOP) or board.told(Order.REST):
            break
        try_once(rng.choice((receiver.receive, sender.send)), mine)
    mine[Field.STATE] = State.LYING
    liar = Liar(header, peer_id, transport, rng)
    while True:
        mine.add(Field.SCRIBBLES)
        mine.add(Field.BEATS)
        try:
            liar.lie()
            bell.send(b"!", socket.MSG_DONTWAIT)
            if rng.random() < 0.3:
                rng.choice((receiver.receive, sender.send, sender.churn))()
        except Exception:
            pass
        time.sleep(_PAUSE)
