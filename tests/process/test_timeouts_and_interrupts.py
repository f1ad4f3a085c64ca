"""Waits that time out or are interrupted by Ctrl-C: nothing leaked, lost or delivered twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

import shmhub
from tests.support import counts, patterns
from tests.support.environment import BRIEF, PATIENCE
from tests.support.stage import Link, Stage, fixed


def _config() -> shmhub.HubConfig:
    return fixed((1024, 8), ring_capacity=8)


def _fill_ring(link: Link) -> int:
    sent = 0
    with pytest.raises(shmhub.RingFullError):
        while True:
            link.transport.send_nowait(patterns.make(16, 0, sent))
            sent += 1
    return sent


@pytest.mark.parametrize("timeout", [0, 0.0, 0.01, BRIEF])
def test_receive_times_out_and_loses_nothing(stage: Stage, timeout: float) -> None:
    host = stage.host(_config())
    link = stage.peer(host)
    for sequence in range(10):
        with pytest.raises(shmhub.HubTimeoutError):
            link.transport.recv(timeout=timeout)
        with pytest.raises(shmhub.HubTimeoutError):
            link.agent.call("recv", timeout=timeout)
        link.agent.call("send", first=sequence, size=500)
        with link.transport.recv(timeout=PATIENCE) as frame:
            patterns.check(frame.payload, sequence=sequence)
    counts.wait_all_free(host)


def test_timed_out_sends_publish_nothing_and_leak_nothing(stage: Stage) -> None:
    host = stage.host(_config())
    link = stage.peer(host)
    sent = _fill_ring(link)
    for _ in range(20):
        with pytest.raises(shmhub.HubTimeoutError):
            link.transport.send(b"never" * 100, timeout=0.005)
        with pytest.raises(shmhub.HubTimeoutError):
            link.transport.send_many([b"never" * 100] * 3, timeout=0.005)
    assert counts.total(host, "owned") == 0
    received = link.agent.call("drain")
    assert [frame["sequence"] for frame in received] == list(range(sent))
    counts.wait_all_free(host)


def test_a_slot_whose_send_timed_out_is_still_ours(stage: Stage) -> None:
    host = stage.host(_config())
    link = stage.peer(host)
    sent = _fill_ring(link)
    slot = link.transport.alloc(1000)
    slot.write(patterns.make(1000, 5, 77))
    for attempt in (
        lambda: link.transport.send(slot, timeout=0.01),
        lambda: link.transport.send_nowait(slot),
    ):
        with pytest.raises((shmhub.HubTimeoutError, shmhub.RingFullError)):
            attempt()
        with memoryview(slot) as view:
            patterns.check(view, sender=5, sequence=77)
    link.agent.call("recv", count=sent, timeout=10)
    link.transport.send(slot, timeout=PATIENCE)
    assert link.agent.call("recv", timeout=10)[0]["sequence"] == 77
    counts.wait_all_free(host)


def test_send_many_that_runs_out_of_time_says_how_many_went(stage: Stage) -> None:
    host = stage.host(_config())
    link = stage.peer(host)
    payloads = [patterns.make(16, 0, number) for number in range(100)]
    with pytest.raises((shmhub.HubTimeoutError, shmhub.RingFullError)) as failure:
        link.transport.send_many(payloads, timeout=BRIEF)
    sent = failure.value.sent
    assert 0 < sent < 100
    received = link.agent.call("drain")
    assert [frame["sequence"] for frame in received] == list(range(sent))


def test_timed_out_allocations_leak_nothing(stage: Stage) -> None:
    host = stage.host(_config())
    link = stage.peer(host)
    held = link.agent.call("alloc", nbytes=1024, count=8)
    assert len(held) == 8
    for _ in range(20):
        with pytest.raises(shmhub.HubTimeoutError):
            link.transport.alloc(100, timeout=0.005)
        with pytest.raises(shmhub.HubTimeoutError):
            link.transport.send(b"n" * 500, timeout=0.005)
    link.agent.call("release")
    counts.wait_all_free(host)
    counts.assert_full_capacity(link.transport, host)


def test_a_zero_timeout_succeeds_when_it_can(stage: Stage) -> None:
    host = stage.host(_config())
    link = stage.peer(host)
    link.transport.send(patterns.make(300), timeout=0)
    link.transport.alloc(100, timeout=0).release()
    link.agent.call("recv", timeout=PATIENCE)
    link.agent.call("send", size=300)
    link.transport.recv(timeout=0).release()


@pytest.mark.parametrize("timeout", [-1, float("nan"), "soon"])
def test_timeouts_that_make_no_sense_are_refused(stage: Stage, timeout: Any) -> None:
    host = stage.host(_config())
    link = stage.peer(host)
    with pytest.raises((ValueError, TypeError)):
        link.transport.recv(timeout=timeout)


def _prepare_recv(agent: Any) -> dict[str, Any]:
    return {"verb": "recv"}


def _prepare_send(agent: Any) -> dict[str, Any]:
    agent.call("send_until_full", size=16)
    return {"verb": "send", "size": 16}


def _prepare_send_with_slot(agent: Any) -> dict[str, Any]:
    agent.call("alloc", nbytes=1024, count=8)
    return {"verb": "send", "size": 1000}


def _prepare_alloc(agent: Any) -> dict[str, Any]:
    agent.call("alloc", nbytes=1024, count=8)
    return {"verb": "alloc", "nbytes": 1000}


WAITS = [_prepare_recv, _prepare_send, _prepare_send_with_slot, _prepare_alloc]


@pytest.mark.parametrize("prepare", WAITS, ids=lambda f: f.__name__.removeprefix("_prepare_"))
def test_ctrl_c_ends_every_wait_of_a_peer(stage: Stage, prepare: Callable[[Any], Any]) -> None:
    host = stage.host(_config())
    link = stage.peer(host)
    command = prepare(link.agent)
    before = counts.pool(host)
    for _ in range(3):
        pending = link.agent.start(**command).wait_asleep()
        link.agent.interrupt()
        with pytest.raises(KeyboardInterrupt):
            pending.result()
        assert counts.pool(host) == before
    link.agent.call("release")
    while True:
        try:
            link.transport.recv(timeout=0).release()
        except shmhub.HubTimeoutError:
            break
    link.transport.send(b"goes on")
    assert link.agent.call("recv", timeout=10)[0]["bytes"] == b"goes on"
    counts.wait_all_free(host)


@pytest.mark.parametrize("where", ["recv", "send", "alloc", "iterate"])
def test_ctrl_c_ends_every_wait_of_the_host(stage: Stage, where: str) -> None:
    """The host is in an agent, whose main thread gets the signal."""
    host = stage.remote_host(_config())
    peer = stage.remote_peer(host)
    via = f"peer-{peer.peer_id}"
    command: dict[str, Any] = {"verb": where, "via": via}
    if where == "send":
        with pytest.raises(shmhub.RingFullError):
            host.call("send", via=via, count=1000, size=16, nowait=True)
        command["size"] = 16
    if where == "alloc":
        peer.call("alloc", nbytes=1024, count=8)
        command = {"verb": "alloc_via", "via": via, "nbytes": 1000}
    pending = host.start(**command).wait_asleep()
    host.interrupt()
    with pytest.raises(KeyboardInterrupt):
        pending.result()
    assert host.call("pid") == host.child.pid


@pytest.mark.parametrize("where", ["recv", "send", "alloc"])
def test_ctrl_c_ends_every_wait_in_asyncio(stage: Stage, where: str) -> None:
    """asyncio.run turns it into a cancellation: the transport is closed in good order."""
    host = stage.host(_config())
    holder = stage.peer(host)
    info = host.add_peer()
    transport = stage.later(shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell))
    agent = stage.agent()
    agent.call("open_hub", fds=[host.fileno()], peer_id=info.peer_id)
    agent.call("register")
    if where == "alloc":
        holder.agent.call("alloc", nbytes=1024, count=8)
    pending = agent.start("wait_in_asyncio", fds=[info.peer_doorbell_fd], where=where)
    pending.wait_begun()
    counts.wait_state(host, info.peer_id, "active")
    pending.wait_asleep()
    agent.interrupt()
    with pytest.raises(KeyboardInterrupt):
        pending.result()
    with pytest.raises(shmhub.PeerGoneError) as gone:
        while True:
            transport.recv(timeout=PATIENCE).release()
    assert gone.value.clean
    holder.agent.call("release")
    counts.wait_all_free(host)


def test_a_signal_that_is_handled_does_not_end_a_wait(stage: Stage) -> None:
    """PEP 475: the handler runs, the wait goes on, its timeout still counts from the start."""
    host = stage.host(_config())
    link = stage.peer(host)
    handled: list[int] = []
    previous = signal.signal(signal.SIGUSR2, lambda number, _frame: handled.append(number))
    try:
        pending = link.agent.start("signal_and_send", pid=os.getpid(), number=signal.SIGUSR2)
        with link.transport.recv(timeout=PATIENCE) as frame:
            assert bytes(frame) == b"after the signals"
        pending.result()
    finally:
        signal.signal(signal.SIGUSR2, previous)
    assert handled == [signal.SIGUSR2] * 3


def test_a_handler_that_raises_ends_a_wait_with_its_exception(stage: Stage) -> None:
    host = stage.host(_config())
    link = stage.peer(host)

    class Enough(Exception):
        pass

    def handler(_number: int, _frame: Any) -> None:
        raise Enough

    previous = signal.signal(signal.SIGUSR2, handler)
    try:
        for wait in (
            link.transport.recv,
            lambda: next(iter(link.transport)),
            lambda: link.transport.recv_many(5),
        ):
            pending = link.agent.start("signal_when_asleep", pid=os.getpid())
            with pytest.raises(Enough):
                wait()
            pending.result()
    finally:
        signal.signal(signal.SIGUSR2, previous)
    link.agent.call("send", count=1)
    link.transport.recv(timeout=PATIENCE).release()


@pytest.mark.parametrize("what", ["send", "send large", "send_many", "send a slot"])
def test_what_waits_for_one_owner_of_an_id_never_reaches_the_next(stage: Stage, what: str) -> None:
    """The peer is replaced while the send waits: here by a signal handler, as a thread might."""
    config = fixed((1024, 8), (1 << 20, 2), ring_capacity=8, max_peers=2)
    host = stage.host(config)
    transport = stage.later(shmhub.HubHostTransport(host))
    first = stage.peer(host, transport=False)
    with pytest.raises(shmhub.RingFullError):
        while True:
            transport.send_nowait(b"fill", to=1)
    payload: Any = b"old" * (100_000 if what == "send large" else 10)
    if what == "send a slot":
        payload = transport.alloc(len(payload))
    replaced: list[Link] = []

    def replace(*_: object) -> None:
        first.kill()
        with pytest.raises(shmhub.PeerGoneError):
            transport.recv(timeout=PATIENCE)
        replaced.append(stage.peer(host, transport=False))

    previous = signal.signal(signal.SIGUSR2, replace)
    try:
        pending = stage.agent().start("signal_when_asleep", pid=os.getpid())
        with pytest.raises(shmhub.PeerGoneError):
            if what == "send_many":
                transport.send_many([payload] * 3, to=1, timeout=PATIENCE)
            else:
                transport.send(payload, to=1, timeout=PATIENCE)
        pending.result()
    finally:
        signal.signal(signal.SIGUSR2, previous)
    assert replaced[0].info.peer_id == 1
    assert replaced[0].agent.call("drain") == []
    transport.send(b"new", to=1)


def test_a_deadline_of_the_call_covers_signals_and_wake_ups_for_others(stage: Stage) -> None:
    """A timeout must run out although something keeps waking the waiter."""
    host = stage.host(fixed((1024, 8), (16384, 8), ring_capacity=8))
    link = stage.peer(host)
    link.agent.call("alloc", nbytes=16384, count=8)
    noise = link.agent.start(
        "alloc_free", thread=True, sizes=[1000], seed=1, most_held=8, rounds=None
    ).wait_begun()
    started = time.monotonic()
    with pytest.raises(shmhub.HubTimeoutError):
        link.transport.alloc(16000, timeout=0.3)
    assert time.monotonic() - started >= 0.29
    link.agent.call("stop_load")
    noise.result()
    link.agent.call("release")
    counts.wait_all_free(host)
