"""The extension's memory: pinning, who owns a slot when, close, forks, lost references."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

import shmhub
from shmhub import _core, _errors
from tests.unit.core_pair import (
    CLASSES,
    IN_SLOT,
    INLINE,
    LARGE,
    RING,
    Pair,
)

pytestmark = pytest.mark.time_limit(20)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


# ---- slots ---------------------------------------------------------------------


def test_a_slot_is_a_writable_buffer(pair: Pair) -> None:
    slot = pair.far.alloc(500)
    assert (slot.size, len(slot), slot.capacity, slot.size_class) == (500, 500, 1024, 0)
    assert slot.reference[0] == 0
    view = memoryview(slot)
    assert (view.nbytes, view.readonly, view.format) == (500, False, "B")
    view[:3] = b"abc"
    assert slot.write(b"def", 3) == slot.write(data=b"ghi", offset=497) == 3
    for data, offset in ((b"x", 500), (b"x" * 501, 0), (b"", 501), (b"x", 2**64 - 1)):
        with pytest.raises(ValueError, match="do not fit"):
            slot.write(data, offset)
    with pytest.raises(BufferError, match="views"):
        slot.resize(10)
    assert bytes(view[:6]) + bytes(view[-3:]) == b"abcdefghi"
    view.release()
    slot.resize(1024)
    with pytest.raises(ValueError, match="capacity"):
        slot.resize(1025)
    assert memoryview(slot)[:6] == b"abcdef"
    slot.resize(6)
    pair.far.send(slot)
    assert bytes(pair.near.recv()) == b"abcdef"


def test_a_sent_slot_is_not_yours(pair: Pair) -> None:
    with pair.far.alloc(300) as slot:
        slot.write(b"moved")
        pair.far.send(slot)
        for use in (memoryview, lambda s: s.write(b""), lambda s: s.resize(1), pair.far.send):
            with pytest.raises(ValueError, match="no longer yours"):
                use(slot)
        assert slot.released
        slot.release()
    frame = pair.near.recv()
    assert (bytes(frame)[:5], len(frame)) == (b"moved", 300)


def test_a_slot_with_views_is_not_sent(pair: Pair) -> None:
    slot = pair.far.alloc(300)
    view = memoryview(slot)
    with pytest.raises(BufferError, match="delete the array or view first"):
        pair.far.send(slot)
    view[:2] = b"ok"
    del view
    pair.far.send(slot)
    assert bytes(pair.near.recv())[:2] == b"ok"


def test_release_takes_effect_with_the_last_view(pair: Pair) -> None:
    slot = pair.far.alloc(300)
    view = memoryview(slot)
    slot.release()
    slot.release()
    with pytest.raises(ValueError, match="released"):
        memoryview(slot)
    assert pair.held() == 1
    view[:] = b"v" * 300
    other = view[10:20]
    del view, slot
    gc.collect()
    assert (pair.held(), bytes(other)) == (1, b"v" * 10)
    del other
    assert pair.held() == 0


def test_another_hubs_slot(pair: Pair) -> None:
    other = Pair()
    slot = other.far.alloc(300)
    with pytest.raises(ValueError, match="another hub"):
        pair.far.send(slot)
    slot.write(b"copy")
    other.far.send(slot)
    frame = other.near.recv()
    pair.near.send(frame)  # copied
    assert (other.held(), bytes(pair.far.recv())[:4]) == (0, b"copy")
    other.close()


# ---- frames ------------------------------------------------------------------


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("payload", [INLINE, IN_SLOT], ids=["inline", "slot"])
def test_frames_are_read_only_unless_asked_for(writable: bool, payload: bytes) -> None:
    pair = Pair(writable=writable)
    pair.far.send(payload)
    frame = pair.near.recv()
    assert frame.payload.readonly is not writable
    if writable:
        frame.payload[:1] = b"w"
        assert bytes(frame) == b"w" + payload[1:]
    else:
        with pytest.raises(TypeError):
            frame.payload[:1] = b"w"
    pair.close()


@pytest.mark.parametrize("payload", [INLINE, IN_SLOT], ids=["inline", "slot"])
def test_views_pin_their_frame(pair: Pair, payload: bytes) -> None:
    pair.far.send(payload)
    view = pair.near.recv().payload
    pair.far.send(payload[::-1])
    other = pair.near.recv()
    kept = other.payload
    other.release()
    assert other.released
    for use in (bytes, memoryview, lambda f: f.payload, pair.near.send):
        with pytest.raises(ValueError, match="released"):
            use(other)
    assert len(other) == len(payload)
    pair.close()
    del other
    gc.collect()
    assert (bytes(view), bytes(kept)) == (payload, payload[::-1])


def test_frames_are_freed_when_dropped(pair: Pair) -> None:
    for _ in range(50):
        pair.far.send_many([IN_SLOT] * 5)
        assert len(pair.near.recv_many(5)) == 5
    with pair.far.alloc(10):
        pass
    pair.far.alloc(10)
    assert pair.held() == 0


@pytest.mark.parametrize("view_alive", [False, True])
@pytest.mark.parametrize("payload", [INLINE, IN_SLOT, LARGE], ids=["inline", "slot", "large"])
def test_a_frame_is_passed_on(pair: Pair, payload: bytes, view_alive: bool) -> None:
    pair.far.send(payload, channel=3, method=4, flags=5, message_id=6, deadline=7.0)
    frame = pair.near.recv()
    view = frame.payload if view_alive else None
    assert pair.near.send(frame, method=40) == 6
    assert frame.released
    with pytest.raises(ValueError, match="sent on"):
        bytes(frame)
    back = pair.far.recv(timeout=5)
    assert bytes(back) == payload
    assert (back.channel, back.method, back.flags, back.deadline) == (3, 40, 5, 7.0)
    if view is not None:
        assert view == payload
    del view, frame, back
    assert pair.held() == 0


def test_a_frame_that_cannot_be_passed_on_stays(pair: Pair) -> None:
    pair.far.send(IN_SLOT)
    frame = pair.near.recv()
    with pytest.raises(_errors.RingFullError):
        while True:
            pair.near.send_nowait(b"x")
    with pytest.raises(_errors.RingFullError):
        pair.near.send_nowait(frame)
    assert (frame.released, bytes(frame)) == (False, IN_SLOT)


def test_slots_and_frames_among_many(pair: Pair) -> None:
    pair.far.send(IN_SLOT)
    frame = pair.near.recv()
    slot = pair.near.alloc(3)
    slot.write(b"mid")
    ids = pair.near.send_many([b"a", slot, b"b", frame, b"c"], channel=9)
    received = pair.far.recv_many(9)
    assert [bytes(f) for f in received] == [b"a", b"mid", b"b", IN_SLOT, b"c"]
    assert [f.message_id for f in received] == ids
    assert {f.channel for f in received} == {9}


# ---- memory and life ---------------------------------------------------------


class Host(_core.Host):
    """Subclasses have a dict, methods, and can be in cycles."""

    def double(self) -> int:
        return 2 * self.fileno()


def test_cycles_are_collected() -> None:
    host = Host(None, CLASSES, 4, RING, 0, 0)
    fd = host.fileno()
    assert host.double() == 2 * fd
    transport = _core.Transport(host, None, "all", False)
    cycle: list[object] = [host, transport]
    transport.set_on_gone(cycle.append)  # type: ignore[arg-type]  # never called
    host.me = cycle  # type: ignore[attr-defined]
    poll_fd = transport.fileno()
    del host, transport, cycle
    gc.collect()
    for closed in (fd, poll_fd):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(closed)


def test_a_forked_child_touches_nothing(pair: Pair) -> None:
    slot = pair.far.alloc(300)
    pair.far.send(IN_SLOT)
    frame = pair.near.recv()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for use in (pair.far.recv_nowait, pair.host.trim, lambda: pair.far.alloc(1)):
                with pytest.raises(_errors.HubForkedError):
                    use()
            del slot, frame
            pair.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (pair.held(), bytes(frame)) == (2, IN_SLOT)
    slot.write(b"still mine")
    pair.far.send(slot)
    assert bytes(pair.near.recv(timeout=5))[:10] == b"still mine"


def use_everything(pair: Pair) -> None:
    """One of each call that makes or holds objects, failures too."""
    pair.far.send(INLINE, channel=1, message_id=2**40, deadline=1.0, timeout=1.0)
    pair.far.send_many([INLINE, IN_SLOT, bytearray(5)])
    frames = pair.near.recv_many(9)
    views = [f.payload for f in frames]
    pair.near.send(frames[0])
    pair.near.send(frames[1])
    pair.far.recv_many_nowait(2)
    slot = pair.far.alloc(100)
    slot.write(b"x")
    with pytest.raises(BufferError):
        keep = memoryview(slot)
        pair.far.send(slot)
    del keep
    pair.far.send(slot)
    pair.near.recv(timeout=1).reply_to()
    for failing in (
        pair.near.recv_nowait,
        lambda: pair.near.recv(timeout=0),
        lambda: pair.far.alloc(2 << 20),
        lambda: pair.far.send("text"),  # type: ignore[arg-type]
        lambda: pair.far.send(b"", colour=1),  # type: ignore[call-arg]
        lambda: pair.far.send_many([b"a", 5]),  # type: ignore[list-item]
        lambda: _core.inspect("/nowhere"),
    ):
        with pytest.raises((_errors.ShmhubError, TypeError, OSError)):
            failing()
    pair.near.recv_many(5)
    pair.host.raw_statistics(), pair.host.raw_peers(), pair.far.raw_statistics(), pair.host.config
    pair.host.next_event()
    repr((pair.near, pair.far, pair.doorbell, slot, frames))
    _core.inspect(pair.host.fileno())
    del views


def blocks_after(repeat: Callable[[], None], times: int) -> int:
    for _ in range(times):
        repeat()
    gc.collect()
    return sys.getallocatedblocks()


def test_no_reference_is_lost(pair: Pair) -> None:
    blocks_after(lambda: use_everything(pair), 30)
    before = blocks_after(lambda: use_everything(pair), 5)
    after = blocks_after(lambda: use_everything(pair), 100)
    assert after - before < 50  # one lost object a round would be 100


def test_no_hub_is_lost() -> None:
    def live_and_die() -> None:
        pair = Pair()
        use_everything(pair)
        pair.close()

    blocks_after(live_and_die, 5)
    before, fds = blocks_after(live_and_die, 3), len(os.listdir("/proc/self/fd"))
    after = blocks_after(live_and_die, 20)
    assert after - before < 15
    assert len(os.listdir("/proc/self/fd")) == fds


def test_close_gives_back_at_once(pair: Pair) -> None:
    """Objects that live on keep neither descriptors nor memory; what views show stays."""

    def held_by_hub() -> tuple[int, int]:
        with open("/proc/self/maps") as maps:
            mappings = sum("memfd:shmhub" in line for line in maps)
        return len(os.listdir("/proc/self/fd")), mappings

    before = held_by_hub()
    other = Pair()
    other.far.send(IN_SLOT)
    view = other.near.recv().payload
    sent = other.far.raw_statistics()["sent"]
    config = other.host.config
    other.close()
    assert held_by_hub()[1] == before[1] + before[1] // 2  # the host's part, pinned by the view
    assert bytes(view) == IN_SLOT
    del view
    assert held_by_hub() == before
    assert (other.far.raw_statistics()["sent"], other.host.config) == (sent, config)
    assert (other.far.peer_id, other.peer.peer_id) == (other.peer_id, other.peer_id)
    other.host.close_peer_fd(other.doorbell)
    assert other.host.next_event() is None
    for use in (other.far.recv, other.near.fileno, other.host.trim, other.doorbell.ring):
        with pytest.raises(_errors.HubClosedError):
            use()
    other.close()


def test_close_in_a_wait(pair: Pair) -> None:
    """The memory stays until the call that is inside has come out."""

    def handler(number: int, stack: object) -> None:
        for one in (pair.near, pair.host, pair.far, pair.peer):
            one.close()

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        with pytest.raises((_errors.HubClosedError, _errors.HostGoneError)):
            pair.far.recv()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert pair.far.closed


@pytest.mark.parametrize("size", [1000, 2 << 20, 13 << 20])
@pytest.mark.parametrize("by", [1, -1, 64, 0])
def test_a_slot_takes_a_part_of_itself(size: int, by: int) -> None:
    config = shmhub.HubConfig(size_classes=(shmhub.SizeClass(14 << 20, 1),), max_peers=2)
    with (
        shmhub.HubHost.create(config=config) as host,
        shmhub.HubHostTransport(host) as transport,
        transport.alloc(size + 200) as slot,
    ):
        view = memoryview(slot)
        view[:] = pattern = random.Random(1).randbytes(size + 200)
        slot.write(view[100 : 100 + size], 100 + by)
        expected = bytearray(pattern)
        expected[100 + by : 100 + by + size] = pattern[100 : 100 + size]
        assert view == expected
        view.release()
