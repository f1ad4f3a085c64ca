"""Agent commands for tests with damaged hubs: work that may fail, damage that is aimed."""

from __future__ import annotations

import contextlib
import os
import struct

import shmhub
from tests.support.agent_store import Store, verb
from tests.support.hub_file import CELL, Header


@verb
def work(store: Store, fds: list[int], *, via: str) -> None:
    """Sends, receives and allocates; every error of the product is an answer, too."""
    transport = store.transports.get(via)
    if transport is None:
        return  # damage has ended it before
    for step in (
        lambda: transport.send(b"b" * 100, timeout=0),
        lambda: transport.send(b"b" * 900, timeout=0),
        lambda: transport.recv(timeout=0).release(),
        lambda: transport.alloc_nowait(1000).release(),
        lambda: transport.alloc_nowait(200_000).release(),
    ):
        with contextlib.suppress(shmhub.ShmhubError, OSError, MemoryError):
            step()


@verb
def poke(store: Store, fds: list[int]) -> None:
    """Everything else that reads what a peer could have written."""
    host = store.host
    assert host is not None
    for name, transport in list(store.transports.items()):
        for _ in range(4):
            try:
                transport.recv_nowait().release()
            except (shmhub.WouldBlockError, shmhub.SlotsExhaustedError):
                break
            except (shmhub.PeerGoneError, shmhub.HubClosedError):
                store.transports.pop(name).close()
                break
            except shmhub.ShmhubError:
                continue
    for look in (host.statistics, host.trim, lambda: host.peers):
        with contextlib.suppress(shmhub.ShmhubError, OSError):
            look()


@verb
def close_everything(store: Store, fds: list[int]) -> None:
    for transport in store.transports.values():
        transport.close()
    store.transports.clear()
    assert store.host is not None
    store.host.close()


@verb
def repeat_last_descriptor(store: Store, fds: list[int], *, peer_id: int) -> None:
    """Publishes the last cell of the ring to the host once more."""
    with Header(fds[0]) as header:
        os.close(fds.pop(0))
        regions = {region.name: region for region in header.regions(peer_id)}
        ring, cells = regions["ring up"], regions["cells up"]
        (tail,) = struct.unpack_from("<Q", header.map, ring.start)
        capacity = cells.length // CELL
        old = cells.start + ((tail - 1) % capacity) * CELL
        new = cells.start + (tail % capacity) * CELL
        header.map[new : new + CELL] = header.map[old : old + CELL]
        # The sequence number is the one thing that must look right.
        struct.pack_into("<I", header.map, new + 44, tail & 0xFFFFFFFF)
        struct.pack_into("<Q", header.map, ring.start, tail + 1)
