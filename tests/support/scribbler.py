"""A peer that writes where it must not: random and structured damage while it takes part.

Runs in a forked child: ``nursery.spawn("tests.support.scribbler:run", ...)``. It may crash, hang
or be cut off: that is its own affair. The host must survive.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct

import shmhub
from tests.support.hub_file import CELL, SLOT_META, Header, Region

KINDS = (
    "header",
    "signals",
    "peer entry",
    "host lane",
    "lane",
    "ring up",
    "cells up",
    "ring down",
    "cells down",
    "class",
    "hot list",
    "cold list",
    "slots of class",
    "holders of class",
)


def run(*, fds: dict[str, int], peer_id: int, kind: str, seed: int, rounds: int) -> int:
    """Attaches, then alternates honest messages with damage of one kind of region."""
    rng = random.Random(seed)
    header = Header(fds["hub"])
    peer = shmhub.HubPeer.open(f"/proc/self/fd/{fds['hub']}", peer_id)
    peer.register()
    bell = socket.socket(fileno=os.dup(fds["doorbell"]))
    doorbell = shmhub.Doorbell.from_raw_fd(fds["doorbell"])
    transport = shmhub.HubPeerTransport(peer, doorbell, "scribbler")
    regions = [region for region in header.regions(peer_id) if region.name.startswith(kind)]
    os.write(fds["report"], b"attached\n")
    for _ in range(rounds):
        with contextlib.suppress(shmhub.ShmhubError, OSError):
            transport.send(rng.randbytes(rng.choice([0, 16, 100, 900, 5000])), timeout=0.01)
        damage(header, rng.choice(regions), rng)
        with contextlib.suppress(OSError):
            bell.send(b"!", socket.MSG_DONTWAIT)
        with contextlib.suppress(shmhub.ShmhubError, OSError):
            transport.recv(timeout=0).release()
    os.write(fds["report"], b"done\n")
    return 0


def damage(header: Header, region: Region, rng: random.Random) -> None:
    """One of: a random byte, a flipped bit, an extreme value, a copy of a neighbour."""
    unit = SLOT_META if "slots" in region.name else CELL if "cells" in region.name else 8
    start = region.start + rng.randrange(max(1, region.length // unit)) * unit
    how = rng.randrange(5)
    if how == 0:
        header.map[region.start + rng.randrange(region.length)] = rng.randrange(256)
    elif how == 1:
        header.map[region.start + rng.randrange(region.length)] ^= 1 << rng.randrange(8)
    elif how == 2:
        value = rng.choice([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, rng.getrandbits(64)])
        struct.pack_into("<Q", header.map, start, value)
    elif how == 3:
        other = region.start + rng.randrange(max(1, region.length // unit)) * unit
        header.map[start : start + unit] = header.map[other : other + unit]
    else:
        _near_miss(header, start, rng)


def _near_miss(header: Header, start: int, rng: random.Random) -> None:
    """A value that is almost right: these get furthest."""
    (value,) = struct.unpack_from("<Q", header.map, start)
    step = rng.choice([1, -1, 2, 8, 1 << 16, 1 << 24, 1 << 32, 1 << 40])
    struct.pack_into("<Q", header.map, start, (value + step) % (1 << 64))


def forge(*, fds: dict[str, int], peer_id: int, forgery: str) -> int:
    """Publishes one well-aimed false descriptor to the host, then waits to be killed."""
    header = Header(fds["hub"])
    peer = shmhub.HubPeer.open(f"/proc/self/fd/{fds['hub']}", peer_id)
    peer.register()
    bell = socket.socket(fileno=os.dup(fds["doorbell"]))
    doorbell = shmhub.Doorbell.from_raw_fd(fds["doorbell"])
    transport = shmhub.HubPeerTransport(peer, doorbell, "forger")
    (ring,) = [region for region in header.regions(peer_id) if region.name == "ring up"]
    (cells,) = [region for region in header.regions(peer_id) if region.name == "cells up"]
    (tail,) = struct.unpack_from("<Q", header.map, ring.start)
    cell = cells.start + (tail % (cells.length // CELL)) * CELL
    header.map[cell : cell + CELL] = _FORGERIES[forgery](tail)
    struct.pack_into("<Q", header.map, ring.start, tail + 1)
    bell.send(b"!")
    os.write(fds["report"], b"forged\n")
    with contextlib.suppress(shmhub.ShmhubError):
        transport.recv(timeout=60)
    return 0


_NO_SLOT = 0xFFFFFFFF


def _descriptor(
    tail: int, *, ref: int = _NO_SLOT, gen: int = 1, length: int = 8, cells: int = 1, seq: int = 0
) -> bytes:
    """A descriptor as layout v1 has it."""
    return struct.pack(
        "<QqIHHIIQHHI16s", 5, 0, 0, 1, 1, ref, gen, length, cells, 0, (tail + seq) & 0xFFFFFFFF, b""
    )


_FORGERIES = {
    "slot nobody has": lambda tail: _descriptor(tail, ref=3, gen=0, length=100),
    "class that is not there": lambda tail: _descriptor(tail, ref=7 << 29, length=100),
    "index beyond the class": lambda tail: _descriptor(tail, ref=0x00FFFFF0, length=100),
    "length beyond the slot": lambda tail: _descriptor(tail, ref=0, gen=1, length=1 << 40),
    "inline length too long": lambda tail: _descriptor(tail, length=1 << 20),
    "more cells than there are": lambda tail: _descriptor(tail, length=240, cells=5),
    "no cells": lambda tail: _descriptor(tail, cells=0),
    "too many cells": lambda tail: _descriptor(tail, cells=65535),
    "all ones": lambda tail: b"\xff" * CELL,
}
FORGERIES = tuple(_FORGERIES)
