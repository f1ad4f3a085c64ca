"""asyncio streams over a Unix socketpair, a four-byte length before each message."""

from __future__ import annotations

import asyncio
import socket
import struct

from ..sides import Child, Far, Link
from . import Contender

LENGTH = struct.Struct("<I")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def send(writer: asyncio.StreamWriter, payload: bytes) -> None:
    writer.write(LENGTH.pack(len(payload)) + payload)
    await writer.drain()


async def receive(reader: asyncio.StreamReader) -> bytes:
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    return await reader.readexactly(length)


class _Loop:
    """A running loop and the streams on this side's socket."""

    def __init__(self, end: socket.socket) -> None:
        self.runner = asyncio.Runner()
        self.streams: Streams = self.runner.run(self._open(end))

    @staticmethod
    async def _open(end: socket.socket) -> Streams:
        return await asyncio.open_unix_connection(sock=end)

    def close(self) -> None:
        self.runner.run(self._shut())
        self.runner.close()

    async def _shut(self) -> None:
        self.streams[1].close()


class UnixNear:
    def __init__(self, end: socket.socket) -> None:
        self._loop = _Loop(end)

    def echo(self, count: int, payload: bytes) -> None:
        self._loop.runner.run(self._echo(count, payload))

    async def _echo(self, count: int, payload: bytes) -> None:
        reader, writer = self._loop.streams
        for _ in range(count):
            await send(writer, payload)
            await receive(reader)

    def close(self) -> None:
        self._loop.close()


class UnixFar(Far):
    def __init__(self, end: socket.socket) -> None:
        self._loop = _Loop(end)

    def echo(self, count: int) -> None:
        self._loop.runner.run(self._echo(count))

    async def _echo(self, count: int) -> None:
        reader, writer = self._loop.streams
        for _ in range(count):
            await send(writer, await receive(reader))

    def close(self) -> None:
        self._loop.close()


class AsyncioUnix(Contender):
    name = "asyncio Unix socket"

    def connect(self) -> Link:
        here, there = socket.socketpair()
        child = Child.spawn(UnixFar, there)
        there.close()
        child.ready()
        return Link(UnixNear(here), child)
