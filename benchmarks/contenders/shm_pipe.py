"""SharedMemory by hand: one segment that both sides write in turn, and a Pipe to say "your turn".

One segment for both directions, because that is the faster of the two ways to do it (half the
cache footprint); it is also all the safety this contender has.
"""

from __future__ import annotations

from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory

from ..sides import Child, Desk, Far, Link, far_desk
from . import Contender

TURN = b"t"


class ShmNear:
    def __init__(self, memory: SharedMemory, connection: Connection) -> None:
        self._memory = memory
        self._connection = connection

    def echo(self, count: int, payload: bytes) -> None:
        """Untouched: the payload lies there and only the turn is passed."""
        send, receive = self._connection.send_bytes, self._connection.recv_bytes
        for _ in range(count):
            send(TURN)
            receive()

    def swap(self, count: int, desk: Desk) -> None:
        send, receive = self._connection.send_bytes, self._connection.recv_bytes
        write, read = desk.write, desk.read
        buffer = self._memory.buf
        assert buffer is not None
        with buffer[: desk.size] as shared:
            for _ in range(count):
                write(shared)
                send(TURN)
                receive()
                read(shared)

    def close(self) -> None:
        self._connection.close()
        self._memory.close()
        self._memory.unlink()


class ShmFar(Far):
    def __init__(self, name: str, connection: Connection) -> None:
        self._memory = SharedMemory(name)
        self._connection = connection

    def echo(self, count: int) -> None:
        send, receive = self._connection.send_bytes, self._connection.recv_bytes
        for _ in range(count):
            send(receive())

    def swap(self, count: int, size: int) -> None:
        send, receive = self._connection.send_bytes, self._connection.recv_bytes
        desk = far_desk(size)
        write, read = desk.write, desk.read
        buffer = self._memory.buf
        assert buffer is not None
        with buffer[:size] as shared:
            for _ in range(count):
                receive()
                read(shared)
                write(shared)
                send(TURN)

    def close(self) -> None:
        self._connection.close()
        self._memory.close()


class ShmPipe(Contender):
    name = "SharedMemory+Pipe"

    def __init__(self, size: int) -> None:
        self._size = size

    def connect(self) -> Link:
        here, there = Pipe(duplex=True)
        memory = SharedMemory(create=True, size=self._size)
        try:
            child = Child.spawn(ShmFar, memory.name, there)
            there.close()
            child.ready()
        except BaseException:
            memory.close()
            memory.unlink()
            raise
        return Link(ShmNear(memory, here), child)
