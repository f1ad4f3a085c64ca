"""shmhub.aio over a real hub, both ends in this process: no frame is lost, whatever goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

import shmhub
from shmhub.aio import HubHostTransport
from tests.unit.aio_pair import CONFIG, PATIENCE, conversation, far_end, settle


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


@pytest.mark.parametrize("wrong", [float("inf"), "1", 0, -1, 2**64 + 1], ids=str)
def test_a_wrong_max_is_refused_before_a_frame_is_taken(wrong: Any) -> None:
    async def test() -> None:
        with conversation() as (near, far):
            with pytest.raises((TypeError, ValueError)) as expected:
                far.recv_many(wrong)
            far.send_many([b"a", b"b", b"c"])
            [returned] = await near.recv_many(1)
            near._frames.put_back(returned)
            with pytest.raises(expected.type) as caught:
                near.recv_many_nowait(wrong)
            assert str(caught.value) == str(expected.value)
            with pytest.raises(expected.type) as caught:
                await near.recv_many(wrong)
            assert str(caught.value) == str(expected.value)
            received = await near.recv_many(10, timeout=PATIENCE)
            assert [bytes(frame) for frame in received] == [b"a", b"b", b"c"]

    asyncio.run(test())


@contextmanager
def raising(
    raised: type[BaseException],
) -> Iterator[tuple[shmhub.HubHost, HubHostTransport]]:
    """A host whose transport's `on_peer_gone` raises that."""

    def on_peer_gone(gone: shmhub.PeerGoneError) -> None:
        raise raised("of the callback")

    with shmhub.HubHost.create(None, CONFIG) as host:
        near = HubHostTransport(host, on_peer_gone=on_peer_gone)
        with closing(near):
            yield host, near


@pytest.mark.parametrize("raised", [ValueError, asyncio.CancelledError])
def test_frames_come_before_what_on_peer_gone_raises(raised: type[BaseException]) -> None:
    """An exception waits for the next receive; what must not wait leaves the frames to that."""

    async def test() -> None:
        with raising(raised) as (host, near):
            with far_end(host, host.add_peer()) as far:
                far.send(b"last words")
            if raised is ValueError:
                [frame] = await near.recv_many(10, timeout=PATIENCE)
                with pytest.raises(ValueError, match="of the callback"):
                    await asyncio.wait_for(near.recv_many(10), PATIENCE)
            else:
                frames, calls = [], 0
                while len(frames) + calls < 2:  # the news may come later than the frame
                    try:
                        frames += await near.recv_many(10, timeout=PATIENCE)
                    except raised:
                        calls += 1
                [frame] = frames
            assert bytes(frame) == b"last words"
            frame.release()

    asyncio.run(test())


def test_however_much_was_put_back_is_received_at_once() -> None:
    async def test() -> None:
        with conversation() as (near, far):
            far.send(b"last")
            many: list[Any] = list(range(2000))
            near._frames.put_back(*many)
            *received, last = await near.recv_many(3000, timeout=PATIENCE)
            assert received == many
            assert bytes(last) == b"last"

    asyncio.run(test())


def test_what_cancelled_receives_had_comes_in_order() -> None:
    async def test() -> None:
        with conversation() as (near, far):
            tasks = [asyncio.ensure_future(near.recv()) for _ in range(3)]
            await settle()
            far.send_many([b"0", b"1", b"2", b"3"])
            near._look()  # they have frames in hand and have not run
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            received = [bytes(await near.recv(timeout=PATIENCE)) for _ in range(4)]
            assert received == [b"0", b"1", b"2", b"3"]

    asyncio.run(test())


def test_news_keep_their_place_among_frames_that_were_put_back() -> None:
    async def test() -> None:
        with conversation() as (near, _far):
            items: list[Any] = ["0", "1", shmhub.PeerGoneError("gone"), "3"]
            near._frames.put_back(*items)
            assert await near.recv_many(10) == ["0", "1"]
            with pytest.raises(shmhub.PeerGoneError):
                await near.recv_many(10)
            assert await near.recv_many(10) == ["3"]

    asyncio.run(test())


@pytest.mark.parametrize("raised", [StopIteration, asyncio.CancelledError, ValueError])
def test_whatever_on_peer_gone_raises_ends_a_receive_that_waits(
    raised: type[BaseException],
) -> None:
    async def test() -> None:
        with raising(raised) as (host, near):
            with far_end(host, host.add_peer()):
                waiting = asyncio.ensure_future(near.recv())
                await settle()
            # As coroutines do; StopIteration would mean that they return.
            told = RuntimeError if raised is StopIteration else raised
            await asyncio.wait([waiting], timeout=PATIENCE)
            assert waiting.done()
            with pytest.raises(told):
                await waiting
            with pytest.raises(shmhub.HubTimeoutError):  # told once
                await near.recv(timeout=0)

    asyncio.run(test())
