"""faster-fifo: a byte queue in shared memory with a process-shared lock and condition variable.

Its pickling is switched off (`loads` and `dumps` hand the bytes through), which is faster than its
default: the question is about moving bytes.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..sides import Child, Far, Link
from . import Contender

QUEUE_BYTES = 1_000_000
TIMEOUT = 20.0


def dump_bytes(payload: bytes) -> bytes:
    return payload


def load_bytes(raw: Any) -> bytes:
    return bytes(raw)


def _new_queue() -> Any:
    library = importlib.import_module("faster_fifo")
    # Registers how a queue travels to a spawned process.
    importlib.import_module("faster_fifo_reduction")
    return library.Queue(QUEUE_BYTES, loads=load_bytes, dumps=dump_bytes)


class FifoNear:
    def __init__(self, to_far: Any, to_near: Any) -> None:
        self._to_far, self._to_near = to_far, to_near

    def echo(self, count: int, payload: bytes) -> None:
        put, get = self._to_far.put, self._to_near.get
        for _ in range(count):
            put(payload, timeout=TIMEOUT)
            get(timeout=TIMEOUT)

    def one_way(self, count: int, payload: bytes) -> None:
        put = self._to_far.put
        for _ in range(count):
            put(payload, timeout=TIMEOUT)

    def one_way_many(self, count: int, payload: bytes, batch: int) -> None:
        put_many = self._to_far.put_many
        payloads = [payload] * batch
        for _ in range(count // batch):
            put_many(payloads, timeout=TIMEOUT)

    def close(self) -> None:
        self._to_far.close()
        self._to_near.close()


class FifoFar(Far):
    def __init__(self, to_far: Any, to_near: Any) -> None:
        self._to_far, self._to_near = to_far, to_near

    def echo(self, count: int) -> None:
        put, get = self._to_near.put, self._to_far.get
        for _ in range(count):
            put(get(timeout=TIMEOUT), timeout=TIMEOUT)

    def one_way(self, count: int) -> None:
        get = self._to_far.get
        for _ in range(count):
            get(timeout=TIMEOUT)

    def one_way_many(self, count: int, batch: int) -> None:
        get_many = self._to_far.get_many
        left = count // batch * batch
        while left > 0:
            left -= len(get_many(max_messages_to_get=batch, timeout=TIMEOUT))


class FasterFifo(Contender):
    name = "faster-fifo"
    module = "faster_fifo"
    distribution = "faster-fifo"

    def connect(self) -> Link:
        to_far, to_near = _new_queue(), _new_queue()
        child = Child.spawn(FifoFar, to_far, to_near)
        child.ready()
        return Link(FifoNear(to_far, to_near), child)
