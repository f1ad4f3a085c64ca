"""asyncio: cancelled and timed-out waits, many tasks on one transport, a loop that goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

import shmhub
from tests.support import counts, patterns
from tests.support.agent_client import AgentHandle
from tests.support.environment import BRIEF, PATIENCE
from tests.support.stage import Stage, fixed

Body = Callable[[Any, AgentHandle, shmhub.HubHost], Coroutine[Any, Any, None]]


def _run(stage: Stage, body: Body, config: shmhub.HubConfig | None = None) -> None:
    """Runs ``body`` with an asyncio transport to an attached agent."""
    host = stage.host(config or fixed((1024, 16), (16384, 8), ring_capacity=8))
    info = host.add_peer()
    agent = stage.agent()
    stage.attach(host, info, agent)

    async def main() -> None:
        async with shmhub.aio.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
            await body(transport, agent, host)

    asyncio.run(main())
    agent.call("release")
    agent.call("drain")
    counts.wait_all_free(host)


async def _settle() -> None:
    """Lets every task run until it waits for the outside."""
    for _ in range(30):
        await asyncio.sleep(0)


async def _cancelled(awaitable: Awaitable[Any]) -> None:
    task = asyncio.ensure_future(awaitable)
    await _settle()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _fill_ring(transport: Any) -> int:
    sent = 0
    with pytest.raises(shmhub.RingFullError):
        while True:
            transport.send_nowait(patterns.make(16, 0, sent))
            sent += 1
    return sent


def test_cancelled_receives_lose_nothing(stage: Stage) -> None:
    async def body(transport: Any, agent: AgentHandle, _host: Any) -> None:
        for sequence in range(50):
            await _cancelled(transport.recv())
            agent.call("send", first=sequence, size=700)
            with await transport.recv() as frame:
                patterns.check(frame.payload, sequence=sequence)

    _run(stage, body)


def test_a_receive_cancelled_while_messages_arrive_loses_none(stage: Stage) -> None:
    async def body(transport: Any, agent: AgentHandle, _host: Any) -> None:
        pending = agent.start("stream_out", sizes=[16, 700], sender=0, count=2000)
        received = 0
        while received < 2000:
            task = asyncio.ensure_future(transport.recv())
            await asyncio.sleep(0)
            task.cancel()
            try:
                frame = await task
            except asyncio.CancelledError:
                frame = await asyncio.wait_for(transport.recv(), PATIENCE)
            patterns.check(frame.payload, sequence=received)
            frame.release()
            received += 1
        assert await asyncio.to_thread(pending.result) == 2000

    _run(stage, body)


def test_cancelled_sends_publish_nothing_and_leak_nothing(stage: Stage) -> None:
    """Twenty cancelled sends leaked twenty slots of the earlier hub."""

    async def body(transport: Any, agent: AgentHandle, host: shmhub.HubHost) -> None:
        sent = await _fill_ring(transport)
        for _ in range(20):
            await _cancelled(transport.send(b"never" * 150))
            await _cancelled(transport.send_many([b"never" * 150] * 2))
        await _settle()
        assert counts.total(host, "owned") == 0
        received = agent.call("drain")
        assert [frame["sequence"] for frame in received] == list(range(sent))

    _run(stage, body)


def test_a_slot_whose_send_was_cancelled_is_still_ours(stage: Stage) -> None:
    async def body(transport: Any, agent: AgentHandle, _host: Any) -> None:
        sent = await _fill_ring(transport)
        slot = await transport.alloc(1000)
        slot.write(patterns.make(1000, 1, 4711))
        await _cancelled(transport.send(slot))
        with memoryview(slot) as view:
            patterns.check(view, sender=1, sequence=4711)
        agent.call("recv", count=sent, timeout=10)
        await transport.send(slot)
        assert agent.call("recv", timeout=10)[0]["sequence"] == 4711

    _run(stage, body)


def test_cancelled_allocations_leak_nothing_and_pass_their_turn_on(stage: Stage) -> None:
    async def body(transport: Any, agent: AgentHandle, _host: Any) -> None:
        agent.call("alloc", nbytes=16384, count=8)
        patient = asyncio.ensure_future(transport.alloc(16000))
        for _ in range(20):
            await _cancelled(transport.alloc(16000))
        pending = agent.start("release")
        (await asyncio.wait_for(patient, PATIENCE)).release()
        pending.result()

    _run(stage, body)


@pytest.mark.parametrize("timeout", [0, BRIEF])
def test_timeouts_are_the_same_as_in_the_sync_transport(stage: Stage, timeout: float) -> None:
    async def body(transport: Any, agent: AgentHandle, _host: Any) -> None:
        with pytest.raises(shmhub.HubTimeoutError):
            await transport.recv(timeout=timeout)
        await _fill_ring(transport)
        with pytest.raises(shmhub.HubTimeoutError):
            await transport.send(b"x", timeout=timeout)
        agent.call("alloc", nbytes=16384, count=8)
        with pytest.raises(shmhub.HubTimeoutError):
            await transport.alloc(16000, timeout=timeout)

    _run(stage, body)


def test_asyncio_timeout_works_as_well(stage: Stage) -> None:
    async def body(transport: Any, agent: AgentHandle, _host: Any) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(BRIEF):
                await transport.recv()
        agent.call("send", count=1)
        (await transport.recv()).release()

    _run(stage, body)


def test_the_event_loop_goes_on_while_a_transport_waits(stage: Stage) -> None:
    async def body(transport: Any, agent: AgentHandle, _host: Any) -> None:
        waiting = asyncio.ensure_future(transport.recv())
        ticks = 0
        for _ in range(100):
            await asyncio.sleep(0.001)
            ticks += 1
        assert (ticks, waiting.done()) == (100, False)
        agent.call("send", count=1)
        (await waiting).release()

    _run(stage, body)


def test_many_tasks_receive_from_one_transport_each_message_once(stage: Stage) -> None:
    """Two receiving tasks got messages twice and corrupted the free list of the earlier hub."""

    async def body(transport: Any, agent: AgentHandle, _host: Any) -> None:
        seen: list[int] = []
        total = 3000

        async def receive() -> None:
            while len(seen) < total:
                frame = await transport.recv()
                seen.append(patterns.check(frame.payload).sequence)
                frame.release()

        pending = agent.start("stream_out", sizes=[16, 300, 900, 8000], sender=0, count=total)
        tasks = [asyncio.ensure_future(receive()) for _ in range(5)]
        await asyncio.wait(tasks, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        assert sorted(seen) == list(range(total))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await asyncio.to_thread(pending.result) == total

    _run(stage, body)


def test_many_tasks_send_through_one_transport_in_order_per_task(stage: Stage) -> None:
    async def body(transport: Any, agent: AgentHandle, _host: Any) -> None:
        each, senders = 400, 5
        pending = agent.start("stream_in", count=each * senders)

        async def send(sender: int) -> None:
            for sequence in range(each):
                size = (16, 300, 900, 8000)[sequence % 4]
                await transport.send(patterns.make(size, sender, sequence))

        await asyncio.gather(*(send(sender) for sender in range(senders)))
        received = await asyncio.to_thread(pending.result)
        assert received == dict.fromkeys(range(senders), each)

    _run(stage, body)


def test_both_directions_at_once_with_random_cancellations(stage: Stage) -> None:
    async def body(transport: Any, agent: AgentHandle, _host: Any) -> None:
        total = 1000
        incoming = agent.start("stream_in", thread=True, count=total)
        outgoing = agent.start("stream_out", thread=True, sizes=[300, 16], sender=8, count=total)

        async def send() -> None:
            for sequence in range(total):
                payload = patterns.make((16, 900)[sequence % 2], 3, sequence)
                while True:
                    task = asyncio.ensure_future(transport.send(payload))
                    if sequence % 3 == 0:
                        await asyncio.sleep(0)
                        task.cancel()
                    try:
                        await task
                    except asyncio.CancelledError:
                        continue  # nothing was published: again
                    break

        async def receive() -> None:
            for sequence in range(total):
                frame = await transport.recv()
                patterns.check(frame.payload, sender=8, sequence=sequence)
                frame.release()

        await asyncio.wait_for(asyncio.gather(send(), receive()), PATIENCE)
        assert await asyncio.to_thread(incoming.result) == {3: total}
        assert await asyncio.to_thread(outgoing.result) == total

    _run(stage, body)


def test_close_wakes_every_waiting_task(stage: Stage) -> None:
    async def body(transport: Any, agent: AgentHandle, _host: Any) -> None:
        await _fill_ring(transport)
        agent.call("alloc", nbytes=16384, count=8)
        tasks = [
            asyncio.ensure_future(awaitable)
            for awaitable in (
                transport.recv(),
                transport.recv(),
                transport.send(b"x"),
                transport.alloc(16000),
            )
        ]
        await _settle()
        result = transport.close()
        if asyncio.iscoroutine(result):
            await result
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
        assert all(isinstance(outcome, shmhub.HubClosedError) for outcome in outcomes), outcomes

    _run(stage, body)


def test_async_iteration_ends_when_the_peer_closes(stage: Stage) -> None:
    async def body(transport: Any, agent: AgentHandle, _host: Any) -> None:
        agent.call("send", count=4, size=600)
        agent.call("close_transport")
        received = [patterns.check(frame.payload).sequence async for frame in transport]
        assert received == [0, 1, 2, 3]

    host = stage.host()
    info = host.add_peer()
    agent = stage.agent()
    stage.attach(host, info, agent)

    async def main() -> None:
        async with shmhub.aio.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
            await body(transport, agent, host)

    asyncio.run(main())
    counts.wait_all_free(host)


def test_a_loop_that_is_closed_leaves_no_reader_behind(stage: Stage) -> None:
    """The transport is used in one asyncio.run after another."""
    host = stage.host()
    info = host.add_peer()
    agent = stage.agent()
    stage.attach(host, info, agent)
    transport = shmhub.aio.HubHostPeerTransport(host, info.peer_id, info.doorbell)

    async def receive() -> int:
        task = asyncio.ensure_future(transport.recv())
        await _settle()
        agent.call("send", count=1)
        with await asyncio.wait_for(task, PATIENCE) as frame:
            return len(frame.payload)

    async def close() -> None:
        async with transport:
            pass

    assert [asyncio.run(receive()) for _ in range(3)] == [64, 64, 64]
    asyncio.run(close())
