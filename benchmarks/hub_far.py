"""The peer's side of shmhub, in the child: the other half of `hub.HubNear`'s verbs.

Imports as little as it can: some questions start 60 of these.
"""

from __future__ import annotations

import shmhub

from .sides import Far, far_desk


class HubFar(Far):
    """The peer's side, in the child."""

    def __init__(self, argv: list[str]) -> None:
        self._transport = shmhub.HubPeerTransport.from_argv(argv, name="bench")

    def echo(self, count: int) -> None:
        send, receive = self._transport.send, self._transport.recv
        for _ in range(count):
            send(receive())

    echo_slot = echo

    def one_way(self, count: int) -> None:
        receive = self._transport.recv
        for _ in range(count):
            receive()

    def one_way_many(self, count: int, batch: int) -> None:
        receive_many = self._transport.recv_many
        left = count // batch * batch
        while left > 0:
            left -= len(receive_many(batch))

    def swap(self, count: int, size: int) -> None:
        send, receive, alloc = self._transport.send, self._transport.recv, self._transport.alloc
        desk = far_desk(size)
        write, read = desk.write, desk.read
        for _ in range(count):
            frame = receive()
            read(frame.payload)
            frame.release()
            slot = alloc(size)
            write(slot)
            send(slot)

    def burst(self, count: int, size: int) -> None:
        """Publish `count` messages that nobody waits for."""
        payload = bytes(size)
        for _ in range(count):
            self._transport.send_nowait(payload)

    def wait_once(self, count: int) -> None:
        """Sleep in `recv` until the host says something."""
        for _ in range(count):
            self._transport.recv()

    def close(self) -> None:
        self._transport.close()
