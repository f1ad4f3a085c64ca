"""The floor: a bare ring pair called from Python (`_floor.c`). 64-byte payloads only."""

from __future__ import annotations

import os
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import native
from ..sides import Child, Far, Link
from . import Contender

SOURCE = Path(__file__).with_name("_floor.c")


def load_floor() -> ModuleType:
    return native.extension("_floor", SOURCE)


class FloorNear:
    def __init__(self, pair: Any) -> None:
        self._pair = pair

    def echo(self, count: int, payload: bytes) -> None:
        send, receive = self._pair.send, self._pair.recv
        for _ in range(count):
            send(payload)
            receive()

    def one_way(self, count: int, payload: bytes) -> None:
        send = self._pair.send
        for _ in range(count):
            send(payload)

    def close(self) -> None:
        del self._pair


class FloorFar(Far):
    def __init__(self, descriptor: Any) -> None:
        fd = descriptor.detach()
        try:
            self._pair = load_floor().Pair(fd, 1)
        finally:
            os.close(fd)

    def echo(self, count: int) -> None:
        send, receive = self._pair.send, self._pair.recv
        for _ in range(count):
            send(receive())

    def one_way(self, count: int) -> None:
        receive = self._pair.recv
        for _ in range(count):
            receive()


class _PassedFd:
    """A descriptor that travels to a spawned process; `detach()` there gives it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (DupFd(self._fd),)


def _arrived(duplicate: Any) -> Any:
    return duplicate


class Floor(Contender):
    name = "floor"

    def connect(self) -> Link:
        module = load_floor()
        fd = os.memfd_create("shmhub-bench-floor", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, module.SHARED_BYTES)
            near = FloorNear(module.Pair(fd, 0))
            child = Child.spawn(FloorFar, _PassedFd(fd))
        finally:
            os.close(fd)
        child.ready()
        return Link(near, child)
