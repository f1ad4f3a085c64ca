"""A page beside the hub on which every peer says how far it has come.

It is what makes "published before the kill" provable: a peer writes here, in memory that outlives
it, before it sends and after a send has returned. One record a life, written by that life alone;
the first record is the driver's word to all. Knows nothing of hubs.
"""

from __future__ import annotations

import mmap
import os
import threading
from enum import IntEnum

_WORDS = 16
RECORD_BYTES = 8 * _WORDS
_RECORDS = 128


class Field(IntEnum):
    """The words of a life's record; `echo_peer.c` has the first of them, too."""

    STATE = 0
    UP_ATTEMPTED = 1  # sequence of the last message that was tried
    UP_PUBLISHED = 2  # sequence of the last message whose send has returned
    RECEIVED = 3
    BEATS = 4
    EXHAUSTED = 5
    TIMED_OUT = 6
    RECHECKED = 7  # held frames that were still right when they were let go
    SCRIBBLES = 8
    BYTES_RECEIVED = 9


class State(IntEnum):
    """Where a life stands; it only goes up."""

    STARTING = 0
    ATTACHED = 1
    LYING = 2  # nothing that it says is to be believed from here on
    LEFT = 3  # its transport is closed in good order


class Order(IntEnum):
    """The words of the first record: what all lives are told."""

    STOP = 0
    REST = 1


class Record:
    """The words of one life."""

    def __init__(self, words: memoryview, number: int) -> None:
        self.number = number
        self._words = words[number * _WORDS : (number + 1) * _WORDS]

    def __getitem__(self, field: Field) -> int:
        return int(self._words[field])

    def __setitem__(self, field: Field, value: int) -> None:
        self._words[field] = value

    def add(self, field: Field, amount: int = 1) -> None:
        self._words[field] += amount

    def clear(self) -> None:
        for index in range(_WORDS):
            self._words[index] = 0


class Board:
    """All records. The driver makes one and hands its descriptor to every life."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.memfd_create("soak-board") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, _RECORDS * RECORD_BYTES)
        self._map = mmap.mmap(self.fd, _RECORDS * RECORD_BYTES)
        self._words = memoryview(self._map).cast("Q")
        self._lock = threading.Lock()
        self._free = list(range(_RECORDS - 1, 0, -1))

    def take(self) -> Record:
        """An unused record, all zero. Driver only."""
        with self._lock:
            record = Record(self._words, self._free.pop())
        record.clear()
        return record

    def give_back(self, record: Record) -> None:
        with self._lock:
            self._free.append(record.number)

    def record(self, number: int) -> Record:
        return Record(self._words, number)

    def tell(self, order: Order, value: bool) -> None:
        self._words[order] = int(value)

    def told(self, order: Order) -> bool:
        return bool(self._words[order])

    def close(self) -> None:
        os.close(self.fd)  # the mapping lives as long as records do
