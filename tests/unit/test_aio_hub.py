"""shmhub.aio over a real hub: what waiting tasks owe to each other and to the peers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

import shmhub
from shmhub.aio import HubHostPeerTransport, HubHostTransport
from tests.unit.aio_pair import add_with_id, fill, settle

CONFIG = shmhub.HubConfig(
    size_classes=(shmhub.SizeClass(1024, 64, 64), shmhub.SizeClass(8192, 8, 8)), ring_capacity=8
)
# Receives all that is there whenever it is told to, and says what it was.
ON_DEMAND = """
import sys, shmhub
with shmhub.HubPeerTransport.from_argv() as host:
    print("up", flush=True)
    for line in sys.stdin:
        taken = []
        try:
            while True:
                taken.append(bytes(host.recv_nowait()).decode())
        except shmhub.WouldBlockError:
            print(*taken, flush=True)
"""
ECHO = """
import asyncio, shmhub
async def main():
    async with shmhub.aio.HubPeerTransport.from_argv() as host:
        async for frame in host:
            await host.send(frame, **frame.reply_to())
asyncio.run(main())
"""


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 50), debug=True)


@asynccontextmanager
async def program(info: shmhub.PeerInfo, code: str) -> AsyncIterator[subprocess.Popen[str]]:
    process = info.popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        if code == ON_DEMAND:
            assert await line_of(process) == "up"
        yield process
    finally:
        process.kill()
        process.communicate()


async def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).strip()


async def drain(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return (await line_of(process)).split()


@pytest.mark.parametrize("look", ["recv", "recv_nowait", "recv_many_nowait", "alloc"])
def test_a_look_by_one_task_does_not_take_the_wake_up_of_another(look: str) -> None:
    """Room is made; before the loop hears of it another task looks, finds nothing and drains."""

    async def test() -> None:
        with shmhub.HubHost.create(None, CONFIG) as host:
            info = host.add_peer()
            async with (
                program(info, ON_DEMAND) as process,
                HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport,
            ):
                fill(transport)
                held = [transport.alloc_nowait(8000) for _ in range(8)]
                waiting = asyncio.ensure_future(transport.send(b"late"))
                await settle()
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write("go\n")
                process.stdin.flush()
                process.stdout.readline()  # blocks the loop: it cannot hear of the room yet
                with pytest.raises((shmhub.HubTimeoutError, shmhub.WouldBlockError)):
                    if look == "recv":
                        await transport.recv(timeout=0)
                    elif look == "recv_nowait":
                        transport.recv_nowait()
                    elif look == "recv_many_nowait":
                        transport.recv_many_nowait(4)
                    else:
                        await transport.alloc(8000, timeout=0)
                await asyncio.wait_for(waiting, 20)
                assert await drain(process) == ["late"]
                assert len(held) == 8

    run(test())


def test_a_full_ring_holds_up_nobody_else() -> None:
    async def test() -> None:
        with shmhub.HubHost.create(None, CONFIG) as host:
            slow, quick = host.add_peer("slow"), host.add_peer("quick")
            async with (
                program(slow, ON_DEMAND) as process,
                program(quick, ECHO),
                HubHostTransport(host) as transport,
            ):
                early = fill(transport, to=slow.peer_id)
                waiting = [
                    asyncio.ensure_future(transport.send(b"late%d" % n, to=slow.peer_id))
                    for n in range(3)
                ]
                for size in (0, 10, 300, 5000) * 20:
                    sent = await transport.send(b"x" * size, to=quick.peer_id, channel=4, method=9)
                    with await transport.recv(timeout=20) as frame:
                        got = (frame.peer_id, frame.message_id, frame.channel, frame.method)
                        assert got == (quick.peer_id, sent, 4, 9)
                        assert len(frame) == size
                assert not any(task.done() for task in waiting)
                assert await drain(process) == ["early"] * early
                await asyncio.gather(*waiting)
                assert await drain(process) == ["late0", "late1", "late2"]

    run(test())


def test_what_waits_for_a_peer_that_dies_does_not_go_to_the_next_owner_of_its_id() -> None:
    async def test() -> None:
        gone: list[shmhub.PeerGoneError] = []
        with shmhub.HubHost.create(None, CONFIG) as host:
            async with HubHostTransport(host, on_peer_gone=gone.append) as transport:
                info = host.add_peer()
                life = (info.peer_id, info.epoch)
                async with program(info, ON_DEMAND) as process:
                    early = fill(transport, to=info.peer_id)
                    waiting = [
                        asyncio.ensure_future(transport.send(b"late", to=info.peer_id))
                        for _ in range(3)
                    ]
                    await settle()
                    process.kill()
                    # This blocks the loop, so that nobody hears of the death yet.
                    next_one = add_with_id(host, info.peer_id)
                async with program(next_one, ON_DEMAND) as process:
                    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
                    assert [type(one) for one in outcomes] == [shmhub.PeerGoneError] * 3
                    await transport.send(b"mine", to=next_one.peer_id)
                    assert await drain(process) == ["mine"]
                with pytest.raises(shmhub.HubTimeoutError):
                    await transport.recv(timeout=0.05)
                [died] = [one for one in gone if (one.peer_id, one.epoch) == life]
                assert len(died.undelivered) == early

    run(test())


def test_a_loop_that_is_kept_busy_by_one_conversation_serves_others() -> None:
    """Operations that never suspend give way now and then."""

    async def test() -> None:
        with shmhub.HubHost.create(None, CONFIG) as host:
            info = host.add_peer()
            async with (
                program(info, ECHO),
                HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport,
            ):
                turns = 0

                async def other() -> None:
                    nonlocal turns
                    while True:
                        turns += 1
                        await asyncio.sleep(0)

                beside = asyncio.ensure_future(other())
                for _ in range(1000):
                    (await transport.alloc(100)).release()
                assert turns >= 5
                beside.cancel()

    run(test())
