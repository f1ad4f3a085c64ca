"""Waiting tasks: order, cancellation at every point, time limits, the end.

The transport is a fake whose descriptor behaves as the core's does: a try that finds nothing arms
it, what arrives then makes it readable once, a try drains it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from decimal import Decimal
from typing import Any

import pytest

from shmhub import HubClosedError, HubTimeoutError, PeerGoneError
from shmhub._aio_waiting import FrameQueue, Readiness, RetryQueue


class FakeTransport:
    """Items come in through `arrive`, room for sending through `make_room`."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.items: deque[Any] = deque()
        self.room = 0
        self.done: list[Any] = []
        self.armed = False
        self.disarmed = 0
        self.polls = 0
        self.readiness = Readiness(lambda: self.read_end, self.serve)
        self.frames = FrameQueue(self.poll, self.readiness, "'fake'")
        self.tries = RetryQueue(self.readiness, self.disarm)

    def serve(self) -> bool:
        waiting = self.frames.serve()
        return self.tries.serve() or waiting

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.read_end, 4096)

    def ring(self) -> None:
        if self.armed:
            self.armed = False
            os.write(self.write_end, b"!")

    def poll(self) -> Any:
        self.polls += 1
        if self.items:
            item = self.items.popleft()
            if isinstance(item, Exception):
                raise item
            return item
        self.drain()
        self.armed = True
        return None

    def attempt(self, what: Any) -> Any:
        if self.room:
            self.room -= 1
            self.done.append(what)
            return what
        self.drain()
        self.armed = True
        return None

    def disarm(self) -> None:
        self.disarmed += 1

    def arrive(self, *items: Any) -> None:
        self.items += items
        self.ring()

    def make_room(self, count: int) -> None:
        self.room += count
        self.ring()

    async def recv(self, timeout: float | None = None) -> Any:
        item = self.frames.take()
        return await self.frames.wait(timeout) if item is None else item

    async def send(self, what: Any, timeout: float | None = None, to: int | None = None) -> Any:
        return await self.tries.wait(to, lambda: self.attempt(what), timeout, "send")

    def close(self) -> None:
        self.readiness.forget()
        os.close(self.read_end)
        os.close(self.write_end)


def with_fake(
    test: Callable[[FakeTransport], Coroutine[Any, Any, None]],
) -> Callable[[], None]:
    """Run a test in an event loop of its own, with a fake of its own."""

    def run() -> None:
        async def main() -> None:
            fake = FakeTransport()
            try:
                await asyncio.wait_for(test(fake), 20)
            finally:
                fake.close()

        asyncio.run(main(), debug=True)

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


async def turns(count: int = 5) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def started(*operations: Awaitable[Any]) -> list[asyncio.Future[Any]]:
    tasks = [asyncio.ensure_future(one) for one in operations]
    await turns()
    return tasks


@with_fake
async def test_what_is_there_is_taken_at_once(fake: FakeTransport) -> None:
    fake.arrive("a", "b")
    assert [await fake.recv(), await fake.recv()] == ["a", "b"]
    assert fake.polls == 2


@with_fake
async def test_first_come_first_served(fake: FakeTransport) -> None:
    tasks = await started(*(fake.recv() for _ in range(5)))
    fake.arrive(*range(5))
    assert await asyncio.gather(*tasks) == list(range(5))


@with_fake
async def test_a_late_comer_does_not_overtake(fake: FakeTransport) -> None:
    [early] = await started(fake.recv())
    fake.items.append("first")  # there, but not yet told
    [late] = await started(fake.recv())
    fake.arrive("second")
    assert await asyncio.gather(early, late) == ["first", "second"]


@with_fake
async def test_a_task_cancelled_while_it_waits_takes_nothing(fake: FakeTransport) -> None:
    tasks = await started(*(fake.recv() for _ in range(3)))
    tasks[1].cancel()
    fake.arrive("a", "b")
    assert [await tasks[0], await tasks[2]] == ["a", "b"]
    assert tasks[1].cancelled()


@with_fake
async def test_a_task_cancelled_with_a_frame_in_hand_loses_nothing(fake: FakeTransport) -> None:
    """The frame was handed over, the task has not run yet: the next receive has it, in order."""
    [task] = await started(fake.recv())
    fake.items += ["a", "b"]
    fake.frames.serve()
    task.cancel()
    await turns()
    assert task.cancelled()
    assert [await fake.recv(), await fake.recv()] == ["a", "b"]


@with_fake
async def test_what_a_cancelled_task_had_goes_to_one_who_waits(fake: FakeTransport) -> None:
    first, second = await started(fake.recv(), fake.recv())
    fake.items.append("a")
    fake.frames.serve()
    first.cancel()
    assert await second == "a"


@with_fake
async def test_news_told_once_survive_a_cancelled_task(fake: FakeTransport) -> None:
    [task] = await started(fake.recv())
    fake.items.append(PeerGoneError("gone", peer_id=3))
    fake.frames.serve()
    task.cancel()
    await turns()
    with pytest.raises(PeerGoneError) as caught:
        await fake.recv()
    assert caught.value.peer_id == 3


@with_fake
async def test_an_error_goes_to_one_and_the_next_goes_on(fake: FakeTransport) -> None:
    first, second = await started(fake.recv(), fake.recv())
    fake.arrive(PeerGoneError("gone"), "a")
    with pytest.raises(PeerGoneError):
        await first
    assert await second == "a"


@with_fake
async def test_cancelled_at_every_turn_nothing_is_lost_or_doubled(fake: FakeTransport) -> None:
    received: list[int] = []

    async def consume() -> None:
        while True:
            received.append(await fake.recv())

    sent = 0
    for turn in range(60):
        [task] = await started(consume())
        for _ in range(3):
            fake.arrive(sent)
            sent += 1
        await turns(turn % 6)
        task.cancel()
        await asyncio.wait([task])
    while len(received) < sent:
        received.append(await fake.recv(timeout=1))
    assert received == list(range(sent))


@with_fake
async def test_time_is_up(fake: FakeTransport) -> None:
    with pytest.raises(HubTimeoutError, match=r"nothing came within 0\.01 s"):
        await fake.recv(timeout=0.01)
    with pytest.raises(HubTimeoutError, match="within 0 s"):
        await fake.recv(timeout=0)
    fake.arrive("a")
    assert await fake.recv(timeout=0) == "a"


@with_fake
async def test_the_last_try_finds_what_nobody_told_of(fake: FakeTransport) -> None:
    [task] = await started(fake.recv(timeout=0.05))
    fake.items.append("untold")
    assert await task == "untold"


@with_fake
async def test_wait_for_loses_nothing(fake: FakeTransport) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fake.recv(), 0.01)
    fake.arrive("a")
    assert await asyncio.wait_for(fake.recv(), 1) == "a"


@with_fake
async def test_a_wait_whose_timer_cannot_be_set_leaves_nobody_in_the_queue(
    fake: FakeTransport,
) -> None:
    with pytest.raises(TypeError):
        await fake.recv(timeout=Decimal("0.5"))  # type: ignore[arg-type]
    fake.arrive("a")
    assert await fake.recv() == "a"


@with_fake
async def test_nobody_waiting_costs_nothing(fake: FakeTransport) -> None:
    """A readable descriptor that nobody waits for must not keep the loop busy."""
    with pytest.raises(HubTimeoutError):
        await fake.recv(timeout=0.01)
    fake.ring()
    await turns()
    loop = asyncio.get_running_loop()
    assert not loop.remove_reader(fake.read_end), "the reader is gone"
    fake.arrive("a")
    assert await fake.recv() == "a", "and comes back"


@with_fake
async def test_senders_are_served_in_turn(fake: FakeTransport) -> None:
    tasks = await started(*(fake.send(n) for n in range(4)))
    fake.make_room(1)
    await turns(10)
    assert fake.done == [0]
    fake.make_room(3)
    assert await asyncio.gather(*tasks) == [0, 1, 2, 3]
    assert fake.done == [0, 1, 2, 3]
    assert fake.disarmed == 0


@with_fake
async def test_a_cancelled_send_did_nothing_and_the_next_moves_up(fake: FakeTransport) -> None:
    first, second = await started(fake.send("a"), fake.send("b"))
    fake.make_room(1)
    first.cancel()  # before the loop has told anybody
    assert await second == "b"
    assert fake.done == ["b"]


@with_fake
async def test_a_send_cancelled_after_it_was_woken_did_nothing(fake: FakeTransport) -> None:
    first, second = await started(fake.send("a"), fake.send("b"))
    fake.room = 1
    fake.tries.serve()
    first.cancel()
    assert await second == "b"
    assert first.cancelled()
    assert fake.done == ["b"]


@with_fake
async def test_the_last_to_give_up_disarms(fake: FakeTransport) -> None:
    first, second = await started(fake.send("a"), fake.send("b"))
    first.cancel()
    await turns()
    assert fake.disarmed == 0
    second.cancel()
    await turns()
    assert fake.disarmed == 1


@with_fake
async def test_lanes_do_not_hold_each_other_up(fake: FakeTransport) -> None:
    """What waits for one peer's ring lets a send to another peer pass."""
    full = {1}

    def attempt(to: int) -> int | None:
        return None if to in full else to

    async def send(to: int) -> int:
        return await fake.tries.wait(to, lambda: attempt(to), None, "send")

    [stuck, _] = await started(send(1), send(1))
    assert await send(2) == 2
    full.clear()
    fake.tries.serve()
    assert await stuck == 1


@with_fake
async def test_a_send_whose_time_is_up(fake: FakeTransport) -> None:
    first, second = await started(fake.send("a", timeout=0.01), fake.send("b"))
    with pytest.raises(HubTimeoutError, match=r"send: no room within 0\.01 s"):
        await first
    with pytest.raises(HubTimeoutError):
        await fake.send("c", timeout=0, to=7)
    fake.make_room(1)
    assert await second == "b"


@with_fake
async def test_an_error_of_the_try_is_the_senders(fake: FakeTransport) -> None:
    def fail() -> None:
        raise PeerGoneError("gone")

    [waiting] = await started(fake.send("a"))
    with pytest.raises(PeerGoneError):
        await fake.tries.wait(9, fail, None, "send")
    fake.make_room(1)
    assert await waiting == "a"


@with_fake
async def test_closing_wakes_everyone(fake: FakeTransport) -> None:
    tasks = await started(fake.recv(), fake.recv(), fake.send("a"), fake.send("b"))
    fake.readiness.forget()
    fake.frames.close(HubClosedError("closed"))
    fake.tries.close(HubClosedError("closed"))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in outcomes] == [HubClosedError] * 4
    assert fake.done == []


def test_one_loop_after_another() -> None:
    fake = FakeTransport()
    for _ in range(3):
        with pytest.raises(HubTimeoutError):
            asyncio.run(fake.recv(timeout=0.01))
    fake.close()


def test_another_loop_beside_it_is_refused() -> None:
    fake = FakeTransport()
    first = asyncio.new_event_loop()
    with pytest.raises(HubTimeoutError):
        first.run_until_complete(fake.recv(timeout=0.01))
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(fake.recv(timeout=0.01))
    fake.close()
    first.close()
