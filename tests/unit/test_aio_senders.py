"""shmhub.aio over a real hub, both ends in this process: whom a send reaches, and in which turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from typing import Any

import pytest

import shmhub
from shmhub.aio import UNINTERRUPTED_MAX, HubHostPeerTransport, HubHostTransport
from tests.unit.aio_pair import (
    CONFIG,
    PATIENCE,
    add_with_id,
    conversation,
    far_end,
    fill,
    peers_conversation,
    settle,
)

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


@pytest.mark.parametrize("both_ends", [conversation, peers_conversation])
def test_sends_to_one_peer_wait_in_one_line_however_it_is_named(both_ends: Any) -> None:
    async def test() -> None:
        with both_ends() as (near, far):
            far.send(b"")
            to = (await near.recv(timeout=PATIENCE)).peer_id
            for names in ([{}, {"to": to}], [{"to": to}, {}]):
                early = fill(near)
                first = asyncio.ensure_future(near.send(b"first", **names[0]))
                await settle()
                far.recv_many(early)  # there is room, and the loop has not heard of it yet
                await near.send(b"second", **names[1])
                await near.send_many([b"third"], **names[1])
                await first
                received = [bytes(frame) for frame in far.recv_many(early)]
                assert received == [b"first", b"second", b"third"]

    asyncio.run(test())


@pytest.mark.parametrize("wrong", [[1], "1", 1.5, 99, -1], ids=str)
@pytest.mark.parametrize("all_peers", [False, True], ids=["one peer", "all peers"])
def test_a_wrong_peer_is_refused_at_once_in_the_words_of_the_sync_transport(
    wrong: Any, all_peers: bool
) -> None:
    """Even while others wait for room."""

    async def test() -> None:
        with shmhub.HubHost.create(None, CONFIG) as host:
            info = host.add_peer()
            near: HubHostTransport | HubHostPeerTransport = (
                HubHostTransport(host)
                if all_peers
                else HubHostPeerTransport(host, info.peer_id, info.doorbell)
            )
            with closing(near), far_end(host, info):
                fill(near, to=info.peer_id)
                waiting = asyncio.ensure_future(near.send(b"", to=info.peer_id))
                await settle()
                with pytest.raises((TypeError, ValueError)) as expected:
                    near.send_nowait(b"", to=wrong)
                said = str(expected.value).replace("send_nowait", "poll_send")
                with pytest.raises(expected.type) as caught:
                    await near.send(b"", to=wrong, timeout=PATIENCE)
                assert str(caught.value) == said
                with pytest.raises(expected.type) as caught:
                    await near.send_many([b""], to=wrong, timeout=PATIENCE)
                assert caught.value.sent == 0  # type: ignore[attr-defined]
                assert not waiting.done()
                waiting.cancel()

    asyncio.run(test())
