"""Waiting in the extension: full rings, empty pools, the GIL, signals, event loops."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from shmhub import _core, _errors
from tests.support.waiting import wait_asleep
from tests.unit.core_pair import (
    CLASSES,
    IN_SLOT,
    LARGE,
    RING,
    Pair,
    readable,
    settle,
)

pytestmark = pytest.mark.time_limit(20)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_one_try(pair: Pair) -> None:
    with pytest.raises(_errors.HubTimeoutError) as timed_out:
        pair.near.recv(timeout=0)
    with pytest.raises(_errors.HubTimeoutError):
        pair.near.recv(0.001)
    with pytest.raises(_errors.WouldBlockError) as blocked:
        pair.near.recv_nowait()
    assert pair.near.poll_recv() is None
    assert timed_out.value.errno == errno.ETIMEDOUT
    assert blocked.value.errno == errno.EAGAIN
    assert "near" in str(blocked.value)


def test_a_full_ring(pair: Pair) -> None:
    sent = []
    with pytest.raises(_errors.RingFullError):
        while True:
            sent.append(pair.far.send_nowait(b"x"))
    with pytest.raises(_errors.HubTimeoutError):
        pair.far.send(b"x", timeout=0)
    with pytest.raises(_errors.HubTimeoutError):
        pair.far.send(IN_SLOT, timeout=0.001)
    slot = pair.far.alloc(100)
    with pytest.raises(_errors.RingFullError):
        pair.far.send_nowait(slot)
    assert slot.write(b"still mine") == 10
    assert pair.far.poll_send(b"y") is None
    assert len(pair.near.recv_many(RING)) == len(sent)
    assert select.select([pair.far.fileno()], [], [], 5)[0]
    assert pair.far.poll_send(b"y") is not None
    slot.release()
    del slot
    pair.near.recv()
    with pytest.raises(_errors.RingFullError) as caught:
        pair.far.send_many_nowait([b"z"] * 99)
    went = caught.value.sent  # type: ignore[attr-defined]
    assert len(pair.near.recv_many(99)) == went > 0
    assert pair.held() == 0


def test_an_empty_pool(pair: Pair) -> None:
    held = []
    with pytest.raises(_errors.SlotsExhaustedError):
        while True:
            held.append(pair.far.alloc_nowait(1 << 20))
    with pytest.raises(_errors.HubTimeoutError):
        pair.far.alloc(1 << 20, timeout=0)
    with pytest.raises(_errors.HubTimeoutError):
        pair.far.alloc(1 << 20, timeout=0.001)
    with pytest.raises(_errors.SlotsExhaustedError):
        pair.far.send_nowait(LARGE)
    with pytest.raises(_errors.HubTimeoutError):
        pair.far.send(LARGE, timeout=0.001)
    with pytest.raises(_errors.PayloadTooLargeError):
        pair.far.alloc((1 << 20) + 1)
    assert pair.far.poll_alloc(1 << 20) is None
    held.pop().release()
    assert select.select([pair.far.fileno()], [], [], 5)[0]
    slot = pair.far.poll_alloc(1 << 20)
    assert slot is not None
    del held, slot
    assert pair.held() == 0


def test_one_task_of_a_loop_does_not_take_anothers_wake_up(pair: Pair) -> None:
    far = pair.far
    held = [pair.near.alloc_nowait(1 << 20) for _ in range(2)]
    settle(far)
    assert far.poll_alloc(1 << 20) is None
    settle(far)
    held.pop().release()
    assert readable(far, 5)
    assert far.poll_recv() is None  # another task looks, and finds nothing
    with pytest.raises(_errors.WouldBlockError):
        far.recv_nowait()
    assert readable(far, 5)
    slot = far.poll_alloc(1 << 20)
    assert slot is not None
    settle(far)

    while far.poll_send(b"x") is not None:
        pass
    settle(far)
    pair.near.send(b"for the receiver")
    assert readable(far, 5)
    assert far.poll_send(b"x") is None
    assert readable(far, 5)
    frame = far.poll_recv()
    assert frame is not None
    assert bytes(frame) == b"for the receiver"
    settle(far)
    assert len(pair.near.recv_many(2)) == 2
    assert readable(far, 5)
    far.drain()
    assert far.poll_send(b"x") is not None
    settle(far)


def test_waits_are_without_the_gil(pair: Pair) -> None:
    received: list[bytes] = []
    thread = threading.Thread(target=lambda: received.append(bytes(pair.near.recv())))
    thread.start()
    pair.far.send(b"wake")
    thread.join(10)
    assert received == [b"wake"]


def test_close_wakes_a_waiting_thread(pair: Pair) -> None:
    errors: list[BaseException] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        try:
            pair.near.recv()
        except _errors.ShmhubError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(10)
    pair.near.close()
    thread.join(10)
    assert [type(e) for e in errors] == [_errors.HubClosedError]
    with pytest.raises(_errors.HubClosedError):
        pair.near.send(b"x")


class Interrupted(Exception):
    pass


def test_a_doorbell_that_is_closed_ends_the_wait_at_it() -> None:
    """And its number, which is somebody else's then, is nothing to that wait."""
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    os.write(writer, b"x")
    bell = _core.Doorbell(ours.detach())
    number = bell.fileno()
    outcome: list[object] = []

    def wait() -> None:
        try:
            outcome.append(bell.wait())
        except _errors.HubClosedError as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert thread.native_id is not None
    wait_asleep(os.getpid(), thread.native_id)
    bell.close()
    os.dup2(reader, number)
    thread.join(10)
    for fd in (reader, writer, number):
        os.close(fd)
    theirs.close()
    assert [type(one) for one in outcome] == [_errors.HubClosedError]


@pytest.mark.parametrize("what", ["recv", "recv_many", "alloc", "send", "send large", "doorbell"])
def test_signal_handlers_run_in_every_wait(pair: Pair, what: str) -> None:
    raised = []

    def handler(number: int, stack: object) -> None:
        if not raised:  # on a busy machine the next one may come while this one is reported
            raised.append(number)
            raise Interrupted

    ours, theirs = socket.socketpair()
    bell = _core.Doorbell(ours.detach())
    keep = []
    if what in ("alloc", "send large"):
        keep = [pair.far.alloc_nowait(1 << 20) for _ in range(2)]
    elif what == "send":
        with pytest.raises(_errors.RingFullError):
            while True:
                pair.far.send_nowait(b"x")
    waits: dict[str, Callable[[], object]] = {
        "recv": pair.near.recv,
        "recv_many": lambda: pair.near.recv_many(5),
        "alloc": lambda: pair.far.alloc(1 << 20),
        "send": lambda: pair.far.send(IN_SLOT),
        "send large": lambda: pair.far.send(LARGE),
        "doorbell": bell.wait,
    }
    before = pair.held()
    previous = signal.signal(signal.SIGALRM, handler)
    try:
        # Again and again: a signal that comes just before the system call interrupts nothing.
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        with pytest.raises(Interrupted):
            waits[what]()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        theirs.close()
        bell.close()
    assert pair.held() == before
    del keep


def test_a_signal_that_comes_during_a_spin_is_not_forgotten() -> None:
    """It interrupts no system call, and comes but once."""

    def handler(number: int, stack: object) -> None:
        raise Interrupted

    pair = Pair(spin_ns=1_000_000_000)
    previous = signal.signal(signal.SIGVTALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)  # of processor time: while it spins
        with pytest.raises(Interrupted):
            pair.near.recv()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
    pair.close()


@pytest.mark.parametrize("payload", [IN_SLOT, LARGE], ids=["slot", "large"])
@pytest.mark.parametrize("all_peers", [False, True])
def test_a_loop_that_waits_for_a_slot_hears_of_the_receivers_end(
    payload: bytes, all_peers: bool
) -> None:
    pair = Pair(all_peers=all_peers)
    near, to = pair.near, pair.peer_id
    held = [near.alloc_nowait(size) for size, count, _ in CLASSES for _ in range(count)]
    assert near.poll_send(payload, to=to) is None
    pair.far.close()
    pair.peer.close()
    with pytest.raises(_errors.PeerGoneError):
        for _ in range(20):
            assert readable(near, 5)
            near.drain()
            assert near.poll_send(payload, to=to) is None
    with pytest.raises(_errors.PeerGoneError):
        near.send_nowait(payload, to=to)
    with pytest.raises(_errors.PeerGoneError):
        near.send(payload, to=to, timeout=5)
    del held
    pair.close()
