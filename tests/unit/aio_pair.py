"""A hub with both ends of a conversation in this process, one of them for asyncio.

The core does not mind that they share a process. What programs do to each other is in
test_aio_hub.py and tests/process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

import shmhub
from shmhub.aio import HubHostPeerTransport, HubPeerTransport

CONFIG = shmhub.HubConfig(size_classes=(shmhub.SizeClass(1024, 64, 64),), ring_capacity=8)
PATIENCE = 10.0


@contextmanager
def far_end(host: shmhub.HubHost, info: shmhub.PeerInfo) -> Iterator[shmhub.HubPeerTransport]:
    """The peer's end, which leaves in good order."""
    with closing(shmhub.HubPeer.open(f"/proc/self/fd/{host.fileno()}", info.peer_id)) as peer:
        peer.register()
        doorbell = shmhub.Doorbell.from_raw_fd(os.dup(info.peer_doorbell_fd))
        with shmhub.HubPeerTransport(peer, doorbell, "far") as transport:
            yield transport


@contextmanager
def conversation() -> Iterator[tuple[HubHostPeerTransport, shmhub.HubPeerTransport]]:
    """An asyncio transport and the peer at its other end."""
    with shmhub.HubHost.create(None, CONFIG) as host:
        info = host.add_peer()
        near = HubHostPeerTransport(host, info.peer_id, info.doorbell)
        with closing(near), far_end(host, info) as far:
            yield near, far


@contextmanager
def peers_conversation() -> Iterator[tuple[HubPeerTransport, shmhub.HubHostPeerTransport]]:
    """The asyncio transport is the peer's."""
    with ExitStack() as stack:
        host = stack.enter_context(shmhub.HubHost.create(None, CONFIG))
        info = host.add_peer()
        far = shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell)
        stack.enter_context(far)
        peer = shmhub.HubPeer.open(f"/proc/self/fd/{host.fileno()}", info.peer_id)
        stack.enter_context(closing(peer)).register()
        doorbell = shmhub.Doorbell.from_raw_fd(os.dup(info.peer_doorbell_fd))
        yield stack.enter_context(closing(HubPeerTransport(peer, doorbell, "near"))), far


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def fill(transport: Any, **labels: int) -> int:
    sent = 0
    with pytest.raises(shmhub.RingFullError):
        while True:
            transport.send_nowait(b"early", **labels)
            sent += 1
    return sent


def add_with_id(host: shmhub.HubHost, peer_id: int) -> shmhub.PeerInfo:
    """Add peers until one gets that id, which is free once the death has been dealt with."""
    while True:
        info = host.add_peer()
        if info.peer_id == peer_id:
            return info
        host.remove_peer(info.peer_id)
