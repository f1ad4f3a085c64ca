"""shmhub.aio: a loop that was closed under waiting tasks leaves nothing behind for the next."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import shmhub
from tests.unit.aio_pair import PATIENCE, conversation, fill, settle


def closed_under(
    *operations: Coroutine[Any, Any, Any], last: Callable[[], object] = lambda: None
) -> list[asyncio.Task[Any]]:
    """Tasks that wait in a loop which is closed without cancelling them, after a last act."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)  # "destroyed but it is pending"
    tasks = [loop.create_task(one) for one in operations]
    loop.run_until_complete(settle())
    last()
    loop.close()
    return tasks


def in_a_new_loop(operation: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(operation, PATIENCE))


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "dropped"])
def test_the_next_loop_receives_what_comes(kept: bool) -> None:
    with conversation() as (near, far):
        tasks = closed_under(near.recv(), near.recv())
        if not kept:
            tasks.clear()
            gc.collect()
        with pytest.raises(shmhub.WouldBlockError):
            near.recv_nowait()
        far.send_many([b"a", b"b"])
        assert [bytes(in_a_new_loop(near.recv())) for _ in range(2)] == [b"a", b"b"]


def test_the_next_loop_waits_for_what_comes() -> None:
    with conversation() as (near, far):
        tasks = closed_under(near.recv())

        async def receive() -> bytes:
            waiting = asyncio.ensure_future(near.recv())
            await settle()
            far.send(b"a")
            return bytes(await waiting)

        assert in_a_new_loop(receive()) == b"a"
        assert not tasks[0].done()


@pytest.mark.parametrize("how", ["recv", "recv_many", "recv_nowait", "recv_many_nowait"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "dropped"])
def test_what_was_handed_to_a_task_of_a_closed_loop_is_for_the_next(kept: bool, how: str) -> None:
    with conversation() as (near, far):

        def hand_over() -> None:
            far.send_many([b"a", b"b", b"c"])
            near._look()

        tasks = closed_under(near.recv(), near.recv(), last=hand_over)
        if not kept:
            tasks.clear()
            gc.collect()

        async def receive() -> list[bytes]:
            frames: list[shmhub.Frame] = []
            while len(frames) < 3:
                got = getattr(near, how)(*([3] if "many" in how else []))
                got = await got if asyncio.iscoroutine(got) else got
                frames += got if isinstance(got, list) else [got]
            return [bytes(frame) for frame in frames]

        assert in_a_new_loop(receive()) == [b"a", b"b", b"c"]
        tasks.clear()
        gc.collect()
        with pytest.raises(shmhub.WouldBlockError):
            near.recv_nowait()


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "dropped"])
def test_the_next_loop_sends(kept: bool) -> None:
    with conversation() as (near, far):
        early = fill(near)
        tasks = closed_under(near.send(b"never"), near.send(b"never"))
        if not kept:
            tasks.clear()
            gc.collect()

        async def send() -> None:
            waiting = asyncio.ensure_future(near.send(b"late"))
            await settle()
            assert len(far.recv_many(early)) == early
            await waiting
            await near.send(b"later")
            tasks.clear()
            gc.collect()
            await near.send(b"last")

        in_a_new_loop(send())
        received = far.recv_many(early)
        assert [bytes(frame) for frame in received] == [b"late", b"later", b"last"]


def test_closing_the_transport_after_the_loop() -> None:
    with conversation() as (near, _far):
        fill(near)
        tasks = closed_under(near.recv(), near.send(b"never"))
        near.close()
        assert not any(task.done() for task in tasks)
