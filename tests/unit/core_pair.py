"""A host and one peer in this process, for tests of the extension's types.

The core does not mind that they share a process, and so both ends can be looked at; what several
processes do to each other is in tests/process.
"""

from __future__ import annotations

import os
import select

from shmhub import _core

CLASSES = ((1024, 16, 16), (64 << 10, 4, 4), (1 << 20, 2, 2))
RING = 16
FREE, OWNED, IN_RING = 4, 5, 6  # places in a class's tuple of statistics
INLINE = b"i" * 64
IN_SLOT = b"s" * 700
LARGE = bytes(range(256)) * 3072  # 768 KiB: copied without the GIL


class Pair:
    """A host, one peer, and a transport at each end."""

    def __init__(
        self, *, writable: bool = False, all_peers: bool = False, spin_ns: int = 0
    ) -> None:
        self.host = _core.Host(None, CLASSES, 4, RING, 0, spin_ns)
        self.peer_id, self.epoch, self.doorbell, fd = self.host.add_peer("far")
        mine = os.dup(fd)
        self.host.close_peer_fd(self.doorbell)
        near_end = None if all_peers else self.doorbell
        self.near = _core.Transport(self.host, near_end, "near", writable)
        self.peer = _core.Peer(f"/proc/self/fd/{self.host.fileno()}", self.peer_id)
        self.peer.register()
        self.far = _core.Transport(self.peer, _core.Doorbell(mine), "far", writable)

    def held(self) -> int:
        """Slots that are not free."""
        return sum(c[OWNED] + c[IN_RING] for c in self.host.raw_statistics()["size_classes"])

    def close(self) -> None:
        for one in (self.far, self.peer, self.near, self.host):
            one.close()


def readable(transport: _core.Transport, timeout: float) -> bool:
    return bool(select.select([transport.fileno()], [], [], timeout)[0])


def settle(transport: _core.Transport) -> None:
    """What an event loop does: drain, let the tasks look, until there is nothing."""
    for _ in range(20):
        if not readable(transport, 0.05):
            return
        transport.drain()
        assert transport.poll_recv() is None
    raise AssertionError("the descriptor stays readable")
