"""Several threads on one transport, both directions: every message once, in order per sender."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import shmhub
from tests.support import counts, patterns
from tests.support.environment import PATIENCE, is_full_run
from tests.support.stage import Stage, fixed
from tests.support.threads import run_in_thread

SIZES = (16, 200, 900, 9000)


def _each() -> int:
    return 20_000 if is_full_run() else 1500


def _config(**options: Any) -> shmhub.HubConfig:
    return fixed((1024, 32), (16384, 16), ring_capacity=16, **options)


def _send(transport: Any, sender: int, count: int, **fields: Any) -> None:
    for sequence in range(count):
        payload = patterns.make(SIZES[sequence % len(SIZES)], sender, sequence)
        transport.send(payload, timeout=PATIENCE, **fields)


class _Receivers:
    """Threads that receive from one transport and remember everything that arrived."""

    def __init__(self, transport: Any, threads: int, total: int) -> None:
        self._transport = transport
        self._left = total
        self._lock = threading.Lock()
        self.arrived: list[tuple[int, int, int]] = []
        self._running = [run_in_thread(self._receive) for _ in range(threads)]

    def _claim(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def _receive(self) -> None:
        while self._claim():
            with self._transport.recv(timeout=PATIENCE) as frame:
                found = patterns.check(frame.payload)
                self.arrived.append((frame.message_id, found.sender, found.sequence))

    def wait(self) -> None:
        for thread in self._running:
            thread.value()


@pytest.mark.parametrize("spin", [0, None], ids=["sleeping", "adaptive"])
def test_four_threads_each_way(stage: Stage, spin: float | None) -> None:
    host = stage.host(_config(spin=spin))
    link = stage.peer(host)
    threads, each = 4, _each()
    theirs_in = link.agent.start("stream_in", thread=True, count=threads * each)
    theirs_out = [
        link.agent.start("stream_out", thread=True, sizes=list(SIZES), sender=100 + n, count=each)
        for n in range(threads)
    ]
    receivers = _Receivers(link.transport, threads, threads * each)
    senders = [run_in_thread(_sender(link.transport, number, each)) for number in range(threads)]
    for sender in senders:
        sender.value()
    assert theirs_in.result() == dict.fromkeys(range(threads), each)
    for pending in theirs_out:
        assert pending.result() == each
    receivers.wait()
    _check_exactly_once(receivers.arrived, threads, each)
    counts.wait_all_free(host)


def _sender(transport: Any, number: int, count: int) -> Any:
    return lambda: _send(transport, number, count)


def _in_order_of_ids(entry: tuple[int, int, int]) -> int:
    """Automatic ids may wrap in the middle of a test: what is near 2**64 came before 0."""
    return (entry[0] + 2**63) % 2**64


def _check_exactly_once(arrived: list[tuple[int, int, int]], threads: int, each: int) -> None:
    wanted = {(100 + sender, sequence) for sender in range(threads) for sequence in range(each)}
    assert len(arrived) == threads * each
    assert {(sender, sequence) for _, sender, sequence in arrived} == wanted
    assert len({message_id for message_id, _, _ in arrived}) == len(arrived)
    # The message ids grow with the order in the ring, and so must each sender's numbers.
    last = dict.fromkeys(range(100, 100 + threads), -1)
    for _, sender, sequence in sorted(arrived, key=_in_order_of_ids):
        assert sequence == last[sender] + 1
        last[sender] = sequence


def test_threads_of_the_all_peers_transport(stage: Stage) -> None:
    host = stage.host(_config())
    transport = stage.later(shmhub.HubHostTransport(host))
    links = [stage.peer(host, transport=False) for _ in range(4)]
    each = _each() // 2
    theirs_in = [link.agent.start("stream_in", thread=True, count=each) for link in links]
    theirs_out = [
        link.agent.start("stream_out", thread=True, sizes=list(SIZES), sender=100 + n, count=each)
        for n, link in enumerate(links)
    ]
    receivers = _Receivers(transport, 3, 4 * each)
    senders = [
        run_in_thread(lambda link=link: _send(transport, 0, each, to=link.peer_id))
        for link in links
    ]
    for sender in senders:
        sender.value()
    for pending in theirs_in:
        assert pending.result() == {0: each}
    for pending in theirs_out:
        assert pending.result() == each
    receivers.wait()
    assert {(s, q) for _, s, q in receivers.arrived} == {
        (100 + sender, sequence) for sender in range(4) for sequence in range(each)
    }
    counts.wait_all_free(host)


def test_threads_of_several_transports_share_the_pool(stage: Stage) -> None:
    host = stage.host(_config())
    links = [stage.peer(host) for _ in range(4)]
    each = _each() // 4
    echoes = [link.agent.start("echo", count=each) for link in links]

    def converse(transport: Any, sender: int) -> None:
        for sequence in range(each):
            payload = patterns.make(SIZES[sequence % 4], sender, sequence)
            sent = transport.send(payload, timeout=PATIENCE)
            with transport.recv(timeout=PATIENCE) as frame:
                assert frame.message_id == sent
                patterns.check(frame.payload, sender=sender, sequence=sequence)

    running = [
        run_in_thread(lambda link=link: converse(link.transport, link.peer_id)) for link in links
    ]
    for thread in running:
        thread.value()
    assert [echo.result() for echo in echoes] == [each] * 4
    counts.wait_all_free(host)


def test_frames_are_released_in_other_threads_and_by_finalisers(stage: Stage) -> None:
    host = stage.host(_config())
    link = stage.peer(host)
    total = _each()
    pending = link.agent.start("stream_out", sizes=[900, 9000], sender=1, count=total)
    handed: list[Any] = []
    done = threading.Event()

    def drop() -> int:
        dropped = 0
        while not (done.is_set() and not handed):
            if handed:
                frame = handed.pop()
                dropped += 1
                if dropped % 2:
                    frame.release()
                del frame  # the other half is given back by the finaliser, in this thread
        return dropped

    dropper = run_in_thread(drop)
    for sequence in range(total):
        frame = link.transport.recv(timeout=PATIENCE)
        patterns.check(frame.payload, sequence=sequence)
        handed.append(frame)
        del frame
    done.set()
    assert dropper.value() == total
    assert pending.result() == total
    counts.wait_all_free(host)


def test_one_message_wakes_one_of_many_receivers_and_none_is_forgotten(stage: Stage) -> None:
    host = stage.host(_config())
    link = stage.peer(host)
    for _round in range(10):
        outcomes = [run_in_thread(lambda: link.transport.recv(timeout=PATIENCE)) for _ in range(4)]
        for outcome in outcomes:
            outcome.wait_asleep()
        link.agent.call("send", count=4, size=100)
        for outcome in outcomes:
            outcome.value().release()
