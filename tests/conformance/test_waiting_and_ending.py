"""Waits, timeouts, descriptors for event loops, and every way a conversation ends."""

from __future__ import annotations

import select
from typing import Any

import pytest

import shmhub
from tests.support import patterns
from tests.support.environment import BRIEF, PATIENCE
from tests.support.sides import Pair


def test_nothing_to_receive(pair: Pair) -> None:
    for call in (pair.side.recv_nowait, lambda: pair.side.recv_many_nowait(4)):
        with pytest.raises(shmhub.WouldBlockError):
            call()
    for timeout in (0, 0.001, BRIEF):
        with pytest.raises(shmhub.HubTimeoutError):
            pair.side.recv(timeout=timeout)
        with pytest.raises(shmhub.HubTimeoutError):
            pair.side.recv_many(3, timeout=timeout)


def test_the_errors_are_the_built_in_ones_too(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        pair.side.recv(timeout=0)
    with pytest.raises(BlockingIOError):
        pair.side.recv_nowait()


def test_a_receive_waits_for_what_comes_later(pair: Pair) -> None:
    for size in (10, 200, 5000):
        pending = pair.other_when_asleep("send", size=size)
        with pair.side.recv() as frame:
            assert len(frame) == size
        pending.result()
    pending = pair.other_when_asleep("send", size=64)
    assert len(pair.side.recv_many(5)) == 1
    pending.result()


def _fill(pair: Pair) -> int:
    sent = 0
    with pytest.raises(shmhub.RingFullError):
        while True:
            pair.side.send_nowait(patterns.make(16, 0, sent))
            sent += 1
    return sent


def test_a_full_ring_is_told_waited_for_and_woken_from(pair: Pair) -> None:
    sent = _fill(pair)
    assert 1 <= sent <= 16
    for timeout in (0, BRIEF):
        with pytest.raises(shmhub.HubTimeoutError):
            pair.side.send(b"x", timeout=timeout)
    pending = pair.other_when_asleep("recv", count=1, timeout=PATIENCE)
    pair.side.send(patterns.make(16, 0, sent))
    received = pending.result() + pair.other("recv", count=sent, timeout=PATIENCE)
    assert [frame["sequence"] for frame in received] == list(range(sent + 1))


def test_a_large_inline_payload_waits_for_all_the_cells_it_needs(pair: Pair) -> None:
    sent = _fill(pair)
    pending = pair.other_when_asleep("recv", count=sent, timeout=PATIENCE)
    pair.side.send(patterns.make(240, 0, 100), timeout=PATIENCE)
    pending.result()
    assert pair.other("recv", timeout=PATIENCE)[0]["sequence"] == 100


def test_many_that_do_not_fit_go_on_as_there_is_room(pair: Pair) -> None:
    payloads = [patterns.make(16, 0, number) for number in range(200)]
    pending = pair.start_other("recv", count=200, timeout=PATIENCE)
    assert len(pair.side.send_many(payloads, timeout=PATIENCE)) == 200
    assert [frame["sequence"] for frame in pending.result()] == list(range(200))
    with pytest.raises((shmhub.HubTimeoutError, shmhub.WouldBlockError)) as failure:
        pair.side.send_many(payloads, timeout=BRIEF)
    assert len(pair.other("drain")) == failure.value.sent
    with pytest.raises(shmhub.RingFullError) as full:
        pair.side.send_many_nowait(payloads)
    assert len(pair.other("drain")) == full.value.sent


@pytest.mark.parametrize("timeout", [-1, -0.5, float("nan"), "1"])
def test_timeouts_that_make_no_sense(pair: Pair, timeout: Any) -> None:
    for call in (
        lambda: pair.side.recv(timeout=timeout),
        lambda: pair.side.send(b"x", timeout=timeout),
        lambda: pair.side.alloc(10, timeout=timeout),
    ):
        with pytest.raises((ValueError, TypeError)):
            call()


def _readable(fd: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def test_the_descriptor_tells_an_event_loop_when_to_try_again(pair: Pair) -> None:
    fd = pair.side.fileno()
    for _round in range(5):
        with pytest.raises(shmhub.WouldBlockError):
            pair.side.recv_nowait()
        assert not _readable(fd, 0)
        pair.other("send", count=3, size=64)
        received = 0
        while received < 3:
            assert _readable(fd, PATIENCE)
            try:
                pair.side.recv_nowait().release()
                received += 1
            except shmhub.WouldBlockError:
                continue


def test_the_descriptor_is_one_and_the_same(pair: Pair) -> None:
    assert pair.side.fileno() == pair.side.fileno() >= 0


def test_the_end_of_the_other_side_makes_the_descriptor_readable(pair: Pair) -> None:
    fd = pair.side.fileno()
    with pytest.raises(shmhub.WouldBlockError):
        pair.side.recv_nowait()
    pair.kill_other()
    deadline_tries = 1000
    while deadline_tries:
        deadline_tries -= 1
        assert _readable(fd, PATIENCE)
        try:
            pair.side.recv_nowait()
        except shmhub.WouldBlockError:
            continue
        except pair.gone:
            break
    assert deadline_tries


def test_an_orderly_end_is_clean(pair: Pair) -> None:
    pair.other("send", count=2, size=700)
    pair.close_other()
    for sequence in range(2):
        with pair.recv() as frame:
            patterns.check(frame.payload, sequence=sequence)
    with pytest.raises(pair.gone) as gone:
        pair.recv()
    assert gone.value.clean
    with pytest.raises((pair.gone, shmhub.PeerStateError)):
        pair.side.send(b"nobody there", timeout=PATIENCE)


def test_a_death_is_not_clean(pair: Pair) -> None:
    ids = [pair.side.send(b"u" * size) for size in (10, 600)]
    pair.other("send", count=2, size=700)
    pair.kill_other()
    for sequence in range(2):
        with pair.recv() as frame:
            patterns.check(frame.payload, sequence=sequence)
    with pytest.raises(pair.gone) as gone:
        pair.recv()
    assert not gone.value.clean
    assert isinstance(gone.value, ConnectionError)
    if pair.is_host:
        assert gone.value.undelivered == tuple(ids)
    with pytest.raises((pair.gone, shmhub.PeerStateError)):
        pair.side.send(b"nobody there", timeout=PATIENCE)


def test_a_wait_ends_with_the_other_side(pair: Pair) -> None:
    pending = pair.other_when_asleep("exit_via")
    with pytest.raises(pair.gone) as gone:
        pair.side.recv()
    assert not gone.value.clean
    assert not pending.done()


def test_iteration_gives_what_was_sent(pair: Pair) -> None:
    pair.other("send", count=5, size=300)
    frames = pair.side.iterate(most=5)
    assert [patterns.check(frame.payload).sequence for frame in frames] == list(range(5))


def test_iteration_ends_with_an_orderly_close(pair: Pair, kind: str) -> None:
    if kind.endswith("all"):
        # The transport of all peers goes on without that one: it ends with its hub.
        pair.close_other()
        with pytest.raises(shmhub.PeerGoneError) as gone:
            pair.recv()
        assert gone.value.clean
        return
    pair.other("send", count=3, size=300)
    pair.close_other()
    assert len(pair.side.iterate()) == 3


def test_iteration_raises_on_a_death(pair: Pair) -> None:
    pair.other("send", count=3, size=300)
    pair.kill_other()
    with pytest.raises(pair.gone):
        pair.side.iterate()


def test_closing(pair: Pair) -> None:
    assert not pair.side.closed
    pair.side.send(b"before the end")
    pair.side.close()
    pair.side.close()
    assert pair.side.closed
    uses: list[Any] = [
        lambda: pair.side.send(b"x"),
        lambda: pair.side.send_nowait(b"x"),
        lambda: pair.side.send_many([b"x"]),
        lambda: pair.side.recv(timeout=0),
        lambda: pair.side.recv_nowait(),
        lambda: pair.side.recv_many(2, timeout=0),
        lambda: pair.side.alloc(10, timeout=0),
        lambda: pair.side.alloc_nowait(10),
        lambda: pair.side.fileno(),
    ]
    for use in uses:
        with pytest.raises(shmhub.HubClosedError):
            use()
    # What was sent before the close still arrives, then the end is clean.
    if not pair.is_host:
        assert pair.other("recv", timeout=PATIENCE)[0]["bytes"] == b"before the end"


def test_a_with_block_closes(pair: Pair) -> None:
    pair.side.use_in_with_block()
    assert pair.side.closed


def test_it_has_a_name_and_tells_whose_it_is(pair: Pair, kind: str) -> None:
    assert isinstance(pair.side.name, str) and pair.side.name
    assert (pair.side.peer_id is None) == kind.endswith("all")
    assert pair.side.name in repr(pair.side.transport)
