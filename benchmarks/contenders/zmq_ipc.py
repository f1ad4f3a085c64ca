"""pyzmq over ipc: a PAIR of sockets, one message a call (ZeroMQ batches below the interface).

The address is in Linux's abstract namespace: nothing is left behind when a run is killed.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import Any

from ..sides import Child, Desk, Far, Link, far_desk
from . import Contender

RECEIVE_MS = 20_000
HIGH_WATER = 10_000
"""Messages queued a side; the default of 1000 was slower one way, 100 000 no faster."""
COPY_BELOW = 64 * 1024
"""Larger payloads go zero-copy (`copy=False`), as pyzmq's documentation recommends."""


def _open_socket(context: Any, *, bind: str = "", connect: str = "") -> Any:
    import zmq

    socket = context.socket(zmq.PAIR)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
    socket.setsockopt(zmq.RCVTIMEO, RECEIVE_MS)
    socket.setsockopt(zmq.LINGER, 0)
    if bind:
        socket.bind(bind)
    else:
        socket.connect(connect)
    return socket


class ZmqNear:
    def __init__(self, context: Any, socket: Any) -> None:
        self._context, self._socket = context, socket

    def echo(self, count: int, payload: bytes) -> None:
        send, receive = self._socket.send, self._socket.recv
        copy = len(payload) < COPY_BELOW
        for _ in range(count):
            send(payload, copy=copy)
            receive(copy=copy)

    def one_way(self, count: int, payload: bytes) -> None:
        send = self._socket.send
        for _ in range(count):
            send(payload)

    def swap(self, count: int, desk: Desk) -> None:
        send, receive = self._socket.send, self._socket.recv
        outgoing, write, read = desk.outgoing, desk.write, desk.read
        for _ in range(count):
            write(outgoing)
            send(outgoing, copy=False)
            read(receive(copy=False).buffer)

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class ZmqFar(Far):
    def __init__(self, address: str) -> None:
        import zmq

        self._context = zmq.Context()
        self._socket = _open_socket(self._context, connect=address)

    def echo(self, count: int, copy: bool = True) -> None:
        send, receive = self._socket.send, self._socket.recv
        for _ in range(count):
            send(receive(copy=copy), copy=copy)

    def one_way(self, count: int) -> None:
        receive = self._socket.recv
        for _ in range(count):
            receive()

    def swap(self, count: int, size: int) -> None:
        send, receive = self._socket.send, self._socket.recv
        desk = far_desk(size)
        outgoing, write, read = desk.outgoing, desk.write, desk.read
        for _ in range(count):
            read(receive(copy=False).buffer)
            write(outgoing)
            send(outgoing, copy=False)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._socket.close()
            self._context.term()


class ZmqIpc(Contender):
    name = "pyzmq ipc"
    module = "zmq"
    distribution = "pyzmq"

    def connect(self) -> Link:
        import zmq

        address = f"ipc://@shmhubbench.{os.getpid()}.{uuid.uuid4().hex[:6]}"
        context = zmq.Context()
        near = ZmqNear(context, _open_socket(context, bind=address))
        try:
            child = Child.spawn(ZmqFar, address)
            child.ready()
        except BaseException:
            near.close()
            raise
        return Link(near, child)
