"""Reference leaks and memory of the extension: repeated use grows nothing."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import shmhub
from tests.support import leaks
from tests.support.environment import PATIENCE, is_full_run
from tests.support.stage import Link, Stage, fixed, small

_MIB = 1 << 20


def _send_and_receive(link: Link) -> None:
    for size in (10, 200, 1000):
        link.transport.send(bytes(size))
        with link.transport.recv(timeout=PATIENCE) as frame:
            assert len(frame) == size


def _send_a_slot(link: Link) -> None:
    with link.transport.alloc(900) as slot:
        slot.write(b"abc")
        slot.resize(500)
        link.transport.send(slot)
    link.transport.recv(timeout=PATIENCE).release()


def _pass_on(link: Link) -> None:
    link.transport.send(bytes(900))
    frame = link.transport.recv(timeout=PATIENCE)
    link.transport.send(frame)
    del frame
    link.transport.recv(timeout=PATIENCE)


def _views(link: Link) -> None:
    link.transport.send(bytes(900))
    frame = link.transport.recv(timeout=PATIENCE)
    views = [memoryview(frame), frame.payload, frame.payload[3:9]]
    frame.release()
    del views


def _many(link: Link) -> None:
    link.transport.send_many([b"x" * 100, bytes(900), b""])
    received = 0
    while received < 3:
        received += len(link.transport.recv_many(3, timeout=PATIENCE))


def _errors(link: Link) -> None:
    for call, error in (
        (lambda: link.transport.recv(timeout=0), shmhub.HubTimeoutError),
        (link.transport.recv_nowait, shmhub.WouldBlockError),
        (lambda: link.transport.alloc(1 << 30), shmhub.PayloadTooLargeError),
        (lambda: link.transport.send(b"x", channel=1 << 20), (ValueError, OverflowError)),
        (lambda: link.transport.send("text"), TypeError),
        (lambda: link.transport.send(memoryview(b"abcd")[::2]), (BufferError, ValueError)),
        (lambda: link.transport.send_many([b"x" * 2000]), shmhub.PayloadTooLargeError),
    ):
        with pytest.raises(error):
            call()


def _statistics(link: Link) -> None:
    link.transport.statistics()


USES = [_send_and_receive, _send_a_slot, _pass_on, _views, _many, _errors, _statistics]


@contextmanager
def _no_log_records() -> Iterator[None]:
    """pytest keeps every record of a test, which would look like growth."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _grown_blocks(use: Callable[[], None], repeats: int) -> int:
    """How many memory blocks of Python ``repeats`` uses have left behind."""
    for _ in range(repeats // 4 + 5):
        use()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(repeats):
        use()
    gc.collect()
    return sys.getallocatedblocks() - before


@pytest.mark.parametrize("use", USES, ids=lambda f: f.__name__.strip("_"))
def test_repeated_use_leaves_no_objects_behind(stage: Stage, use: Callable[[Link], None]) -> None:
    host = stage.host(fixed((1024, 16), ring_capacity=16))
    link = stage.peer(host)
    link.agent.start("echo")
    repeats = 5000 if is_full_run() else 400
    grown = _grown_blocks(lambda: use(link), repeats)
    assert grown < repeats // 4, f"{grown} blocks after {repeats} repeats"


def test_hubs_and_transports_leave_no_objects_behind(stage: Stage) -> None:
    def use() -> None:
        with shmhub.HubHost.create(None, small()) as host:
            info = host.add_peer("name")
            with shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
                transport.alloc(100).release()
            everyone = shmhub.HubHostTransport(host)
            with everyone, pytest.raises(shmhub.HubTimeoutError):
                everyone.recv(timeout=0)
            host.statistics()
            assert host.peers is not None

    with _no_log_records():
        assert _grown_blocks(use, 200) < 50


def test_objects_that_are_dropped_unclosed_leave_nothing_behind(stage: Stage) -> None:
    """Python programs forget to close: the finaliser has to do it, warnings or not."""
    descriptors = len(leaks.open_descriptors(os.getpid()))
    for _ in range(50):
        host = shmhub.HubHost.create(None, small())
        info = host.add_peer()
        transport = shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell)
        slot = transport.alloc(5000)
        view = memoryview(slot)
        del host, info, transport, slot
        view[0] = 1
        del view
        gc.collect()
    assert len(leaks.open_descriptors(os.getpid())) == descriptors
    assert not [name for name in leaks.shared_mappings(os.getpid()) if "memfd" in name]


def test_reference_cycles_with_hub_objects_are_collected(stage: Stage) -> None:
    class Holder:
        pass

    for _ in range(20):
        holder = Holder()
        holder.host = shmhub.HubHost.create(None, small())  # type: ignore[attr-defined]
        info = holder.host.add_peer()  # type: ignore[attr-defined]
        holder.transport = shmhub.HubHostTransport(  # type: ignore[attr-defined]
            holder.host,  # type: ignore[attr-defined]
            on_peer_gone=lambda error, holder=holder: None,
        )
        del info, holder
    gc.collect()
    assert not [name for name in leaks.shared_mappings(os.getpid()) if "memfd" in name]


def test_asyncio_use_leaves_no_objects_behind(stage: Stage) -> None:
    host = stage.host(fixed((1024, 16), ring_capacity=16))
    info = host.add_peer()
    agent = stage.agent()
    stage.attach(host, info, agent)
    agent.start("echo")

    async def main() -> int:
        async with shmhub.aio.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:

            async def use() -> None:
                await transport.send(bytes(900))
                (await transport.recv()).release()
                with pytest.raises(shmhub.HubTimeoutError):
                    await transport.recv(timeout=0)

            return await _grown_by(use)

    assert asyncio.run(main()) < 400  # one block a use would be a leak


async def _grown_by(use: Callable[[], Any]) -> int:
    for _ in range(50):
        await use()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(400):
        await use()
    gc.collect()
    return sys.getallocatedblocks() - before


def test_a_million_messages_worth_of_memory_does_not_grow(stage: Stage) -> None:
    host = stage.host(fixed((1024, 64), (1 << 20, 4), ring_capacity=64))
    link = stage.peer(host)
    link.agent.start("echo")
    rounds = 100_000 if is_full_run() else 3000

    def use(count: int) -> None:
        for number in range(count):
            link.transport.send(bytes((50, 900, 700_000)[number % 3]))
            link.transport.recv(timeout=PATIENCE).release()

    use(300)
    gc.collect()
    ours, theirs = leaks.resident_bytes(), leaks.resident_bytes(link.agent.child.pid)
    use(rounds)
    gc.collect()
    assert leaks.resident_bytes() <= ours + _MIB
    assert leaks.resident_bytes(link.agent.child.pid) <= theirs + _MIB


def test_tracemalloc_sees_no_growth_in_errors_that_carry_attributes(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "shmhub")  # pytest keeps every record: that would grow
    host = stage.host(small(max_peers=4))

    def use() -> None:
        link = stage.peer(host, transport=False)  # the stage would keep the transport until its end
        info = link.info
        with shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
            for _ in range(5):
                transport.send(b"u" * 300)
            link.kill()
            with pytest.raises(shmhub.PeerGoneError) as gone:
                transport.recv(timeout=PATIENCE)
        assert len(gone.value.undelivered) == 5
        link.discard()

    for _ in range(10):
        use()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for _ in range(40):
            use()
        gc.collect()
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    ours = [
        entry
        for entry in after.compare_to(before, "filename")
        if "shmhub" in str(entry.traceback) and "tests" not in str(entry.traceback)
    ]
    grown = sum(entry.size_diff for entry in ours)
    assert grown < 40 * 100, ours
