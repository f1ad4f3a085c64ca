"""ProcessPoolExecutor with one worker: submit, result. It pickles, queues and wakes two threads."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from ..sides import BenchmarkError, Child, Desk, Far, Link, die_with_parent, far_desk
from . import Contender


def give_back(payload: bytes) -> bytes:
    """In the worker: untouched."""
    return payload


def read_and_answer(payload: bytes) -> bytes:
    """In the worker: read every byte, answer with the prepared payload of this side."""
    desk = far_desk(len(payload))
    desk.read(payload)
    desk.write(desk.outgoing)
    return desk.outgoing


class PoolNear:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=die_with_parent)
        if self._pool.submit(give_back, b"ready").result(30) != b"ready":
            raise BenchmarkError("the pool's worker does not answer")

    def echo(self, count: int, payload: bytes) -> None:
        submit = self._pool.submit
        for _ in range(count):
            submit(give_back, payload).result()

    def swap(self, count: int, desk: Desk) -> None:
        submit = self._pool.submit
        for _ in range(count):
            desk.write(desk.outgoing)
            desk.read(submit(read_and_answer, desk.outgoing).result())

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class PoolFar(Far):
    """The pool brings its own worker: this child only keeps the harness's shape and sleeps."""

    def echo(self, count: int) -> None:
        pass

    def swap(self, count: int, size: int) -> None:
        pass


class ProcessPool(Contender):
    name = "ProcessPoolExecutor"

    def connect(self) -> Link:
        child = Child.spawn(PoolFar)
        child.ready()
        return Link(PoolNear(), child)
