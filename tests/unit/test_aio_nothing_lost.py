"""shmhub.aio over a real hub, both ends in this process: no frame is lost, whatever goes wrong."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

import shmhub
from shmhub.aio import HubHostPeerTransport

CONFIG = shmhub.HubConfig(size_classes=(shmhub.SizeClass(1024, 64, 64),), ring_capacity=8)
PATIENCE = 20.0


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


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("number", [Decimal("0.01"), Fraction(1, 100)], ids=repr)
def test_any_real_number_is_a_timeout_and_costs_no_frame(number: Any) -> None:
    async def test() -> None:
        with conversation() as (near, far):
            with pytest.raises(shmhub.HubTimeoutError):
                await asyncio.wait_for(near.recv(timeout=number), PATIENCE)
            far.send(b"a")
            with await near.recv(timeout=number) as frame:
                assert bytes(frame) == b"a"
            (await near.alloc(8, timeout=number)).release()
            await near.send(b"b", timeout=number)
            await near.send_many([b"c"], timeout=number)

    asyncio.run(test())


@pytest.mark.parametrize(
    "wrong", [10**400, "1", 1j, -1, float("nan")], ids=lambda wrong: str(wrong)[:5]
)
def test_a_wrong_timeout_is_refused_in_the_words_of_the_sync_transport(wrong: Any) -> None:
    async def test() -> None:
        with conversation() as (near, far):
            with pytest.raises((TypeError, ValueError)) as expected:
                far.recv(timeout=wrong)
            for attempt in (
                near.recv(timeout=wrong),
                near.send(b"", timeout=wrong),
                near.send_many([b""], timeout=wrong),
                near.alloc(8, timeout=wrong),
            ):
                with pytest.raises(expected.type) as caught:
                    await attempt
                assert str(caught.value) == str(expected.value)
            far.send(b"a")
            with await near.recv(timeout=PATIENCE) as frame:
                assert bytes(frame) == b"a"

    asyncio.run(test())
