"""shmhub.aio over a real hub, both ends in this process: whom a send reaches, and in which turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing

import pytest

import shmhub
from shmhub.aio import UNINTERRUPTED_MAX, HubHostTransport
from tests.unit.test_aio_hub import add_with_id
from tests.unit.test_aio_nothing_lost import PATIENCE, far_end

ROOMY = shmhub.HubConfig(size_classes=(shmhub.SizeClass(1024, 64, 64),), ring_capacity=512)


async def send_many(transport: HubHostTransport, peer_id: int) -> object:
    return await transport.send_many([b"to the first owner"] * 300, to=peer_id)


async def send_after_many(transport: HubHostTransport, peer_id: int) -> object:
    for _ in range(300):
        await transport.send(b"to the first owner", to=peer_id)
    return None


@pytest.mark.parametrize("send", [send_many, send_after_many])
def test_what_is_sent_to_one_owner_of_an_id_never_reaches_the_next(
    send: Callable[[HubHostTransport, int], Awaitable[object]],
) -> None:
    """The peer is replaced while the send lets the others have a turn."""

    async def test() -> None:
        with ExitStack() as stack:
            host = stack.enter_context(shmhub.HubHost.create(None, ROOMY))
            near = stack.enter_context(closing(HubHostTransport(host, on_peer_gone=print)))
            first = host.add_peer()
            leave = stack.enter_context(ExitStack())
            leave.enter_context(far_end(host, first))

            def replace() -> shmhub.HubPeerTransport:
                leave.close()
                return stack.enter_context(far_end(host, add_with_id(host, first.peer_id)))

            sending = asyncio.ensure_future(send(near, first.peer_id))
            await asyncio.sleep(0)
            assert not sending.done()
            second = replace()
            [outcome] = await asyncio.gather(sending, return_exceptions=True)
            with pytest.raises(shmhub.WouldBlockError):
                second.recv_nowait()
            assert isinstance(outcome, shmhub.PeerGoneError)
            assert (outcome.peer_id, outcome.epoch) == (first.peer_id, first.epoch)
            if send is send_many:
                assert outcome.sent == UNINTERRUPTED_MAX  # type: ignore[attr-defined]
            await near.send(b"to the second", to=first.peer_id)
            assert bytes(second.recv(timeout=PATIENCE)) == b"to the second"

    asyncio.run(test())
