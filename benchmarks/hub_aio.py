"""Both sides of shmhub on event loops."""

from __future__ import annotations

import asyncio

import shmhub
import shmhub.aio

from .sides import Far


class AioNear:
    """The host's side on an event loop."""

    def __init__(self, host: shmhub.HubHost, info: shmhub.PeerInfo) -> None:
        self._host = host
        self._runner = asyncio.Runner()
        self._transport = self._runner.run(self._open(info))

    async def _open(self, info: shmhub.PeerInfo) -> shmhub.aio.HubHostPeerTransport:
        return shmhub.aio.HubHostPeerTransport(self._host, info.peer_id, info.doorbell)

    def echo(self, count: int, payload: bytes) -> None:
        self._runner.run(self._echo(count, payload))

    async def _echo(self, count: int, payload: bytes) -> None:
        send, receive = self._transport.send, self._transport.recv
        for _ in range(count):
            await send(payload)
            await receive()

    async def _shut(self) -> None:
        self._transport.close()

    def close(self) -> None:
        self._runner.run(self._shut())
        self._runner.close()
        self._host.close()


class AioFar(Far):
    """The peer's side on an event loop, in the child."""

    def __init__(self, argv: list[str]) -> None:
        self._runner = asyncio.Runner()
        self._transport = self._runner.run(self._open(argv))

    @staticmethod
    async def _open(argv: list[str]) -> shmhub.aio.HubPeerTransport:
        peer, doorbell = shmhub.HubPeer.from_argv(argv)
        return shmhub.aio.HubPeerTransport(peer, doorbell, "bench")

    def echo(self, count: int) -> None:
        self._runner.run(self._echo(count))

    async def _echo(self, count: int) -> None:
        send, receive = self._transport.send, self._transport.recv
        for _ in range(count):
            await send(await receive())

    async def _shut(self) -> None:
        self._transport.close()

    def close(self) -> None:
        self._runner.run(self._shut())
        self._runner.close()
