"""multiprocessing.Pipe: `send_bytes` and `recv_bytes` over a socketpair, no pickling."""

from __future__ import annotations

from multiprocessing import Pipe
from multiprocessing.connection import Connection

from ..sides import Child, Desk, Far, Link, far_desk
from . import Contender


class PipeNear:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def echo(self, count: int, payload: bytes) -> None:
        send, receive = self._connection.send_bytes, self._connection.recv_bytes
        for _ in range(count):
            send(payload)
            receive()

    def one_way(self, count: int, payload: bytes) -> None:
        send = self._connection.send_bytes
        for _ in range(count):
            send(payload)

    def swap(self, count: int, desk: Desk) -> None:
        send, receive = self._connection.send_bytes, self._connection.recv_bytes
        outgoing, write, read = desk.outgoing, desk.write, desk.read
        for _ in range(count):
            write(outgoing)
            send(outgoing)
            read(receive())

    def close(self) -> None:
        self._connection.close()


class PipeFar(Far):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def echo(self, count: int) -> None:
        send, receive = self._connection.send_bytes, self._connection.recv_bytes
        for _ in range(count):
            send(receive())

    def one_way(self, count: int) -> None:
        receive = self._connection.recv_bytes
        for _ in range(count):
            receive()

    def swap(self, count: int, size: int) -> None:
        send, receive = self._connection.send_bytes, self._connection.recv_bytes
        desk = far_desk(size)
        outgoing, write, read = desk.outgoing, desk.write, desk.read
        for _ in range(count):
            read(receive())
            write(outgoing)
            send(outgoing)

    def close(self) -> None:
        self._connection.close()


class MpPipe(Contender):
    name = "mp.Pipe"

    def connect(self) -> Link:
        here, there = Pipe(duplex=True)
        child = Child.spawn(PipeFar, there)
        there.close()
        child.ready()
        return Link(PipeNear(here), child)
