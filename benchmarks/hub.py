"""shmhub's own side of each question, in the contenders' shape (`sides.Near`, `sides.Far`).

Uses the public interface alone, as a user's program would. The other process is
`python -m benchmarks.peer`, started by `PeerInfo.popen`.
"""

from __future__ import annotations

from typing import Any

import shmhub

from .contenders import Contender
from .sides import Child, Desk, Link, Near

TIMEOUT = 20.0


def make_config(spin: float | None, **fields: Any) -> shmhub.HubConfig:
    """The defaults, but for `spin`: None is the adaptive default, 0 never."""
    return shmhub.HubConfig(spin=spin, **fields)


def start_child(info: shmhub.PeerInfo, kind: str) -> Child:
    """The process behind `info`; `kind` is one of those that `benchmarks.peer` knows."""
    return Child.program(info.popen, kind)


class HubNear:
    """The host's side: one host, one peer, a synchronous transport."""

    def __init__(self, host: shmhub.HubHost, info: shmhub.PeerInfo) -> None:
        self.host = host
        self._info = info
        self.transport = shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell)

    def echo(self, count: int, payload: bytes) -> None:
        send, receive = self.transport.send, self.transport.recv
        for _ in range(count):
            send(payload)
            receive()

    def echo_slot(self, count: int, size: int) -> None:
        """Untouched: a slot of `size` goes out and comes back, nobody looks inside."""
        send, receive, alloc = self.transport.send, self.transport.recv, self.transport.alloc_nowait
        for _ in range(count):
            send(alloc(size))
            receive().release()

    def one_way(self, count: int, payload: bytes) -> None:
        send = self.transport.send
        for _ in range(count):
            send(payload)

    def one_way_many(self, count: int, payload: bytes, batch: int) -> None:
        send_many = self.transport.send_many
        payloads = [payload] * batch
        for _ in range(count // batch):
            send_many(payloads)

    def swap(self, count: int, desk: Desk) -> None:
        send, receive, alloc = self.transport.send, self.transport.recv, self.transport.alloc
        write, read, size = desk.write, desk.read, desk.size
        for _ in range(count):
            slot = alloc(size)
            write(slot)
            send(slot)
            frame = receive()
            read(frame.payload)
            frame.release()

    def alloc_release(self, count: int, size: int) -> None:
        alloc = self.transport.alloc_nowait
        for _ in range(count):
            alloc(size).release()

    def close(self) -> None:
        self.transport.close()
        self.host.close()


class Hub(Contender):
    """shmhub itself. `spin`: None adaptive (the default of a hub), 0 never."""

    def __init__(self, *, spin: float | None = None, kind: str = "sync", **fields: Any) -> None:
        self._config = make_config(spin, **fields)
        self._kind = kind
        spelled = "" if spin is None else f" spin={spin:g}"
        self.name = f"shmhub{' asyncio' if kind == 'asyncio' else ''}{spelled}"

    def connect(self) -> Link:
        host = shmhub.HubHost.create(None, self._config)
        try:
            info = host.add_peer("bench")
            child = start_child(info, self._kind)
            child.ready()
            near = self._open_near(host, info)
        except BaseException:
            host.close()
            raise
        return Link(near, child)

    def _open_near(self, host: shmhub.HubHost, info: shmhub.PeerInfo) -> Near:
        if self._kind == "sync":
            return HubNear(host, info)
        from .hub_aio import AioNear

        return AioNear(host, info)
