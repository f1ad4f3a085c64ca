"""Streams in both directions: order, ends, errors, credit, and what becomes of abandoned ones."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import shmhub
from shmhub._rpc import CallLost, Link, Stream
from tests.support.environment import BRIEF, PATIENCE
from tests.support.programs.rpc_plugin import Nameless, Speechless, Stubborn, Unspeakable
from tests.support.rpc import Rig, soon
from tests.support.stage import Stage
from tests.support.waiting import until


@pytest.fixture(params=(1, 3), ids=lambda count: f"{count} threads")
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def rig(stage: Stage) -> Rig:
    made = Rig(stage)
    made.start()
    return made


@pytest.fixture
def link(rig: Rig, threads: int) -> Link:
    return rig.plugin(threads=threads)


@pytest.mark.parametrize("method", ["count", "acount"])
def test_items_come_in_order_and_the_end_is_told(link: Link, method: str) -> None:
    with link.open_stream(method, (500,), deadline=soon()) as stream:
        assert list(stream) == list(range(500))
    taken = []
    with pytest.raises(ValueError, match="odd"):
        taken.extend(link.open_stream(method, (75,), deadline=soon()))
    assert taken == list(range(75))
    assert list(link.open_stream(method, (0,))) == []
    assert link.in_flight == 0
    assert link.inflows == {}


@pytest.mark.parametrize("method", ["count", "acount"])
def test_large_items(rig: Rig, link: Link, method: str) -> None:
    with link.open_stream(method, (40, 1 << 20), deadline=soon()) as stream:
        assert [len(item) for item in stream] == [1 << 20] * 40
    assert rig.held() == 0


def test_a_slow_reader_holds_the_producer_back(rig: Rig, link: Link) -> None:
    stream = link.open_stream("count", (1000,))
    assert next(stream) == 0
    link.ping(soon())
    # Whatever time passes, no more than a window is under way.
    deadline = time.monotonic() + 10 * BRIEF
    while time.monotonic() < deadline:
        link.ping(soon())
    assert len(stream._items) <= 16
    assert list(stream) == list(range(1, 1000))


def test_an_abandoned_iterator_cancels(rig: Rig, link: Link) -> None:
    for item in link.open_stream("count", (10**9,)):
        if item == 20:
            break
    gc.collect()
    stream = link.open_stream("count", (10**9,))
    assert next(stream) == 0
    stream.close()
    assert list(stream) == []
    # The producers have ended, or these would wait for a thread for ever.
    for _ in range(8):
        assert link.call("echo", (1,), deadline=soon()) == 1
    deadline = soon()
    while link.in_flight or rig.held():
        link.ping(deadline)
    assert link.inflows == {}


def test_a_stream_has_a_deadline(link: Link) -> None:
    stream = link.open_stream("ask_forever", (), deadline=time.monotonic() + 4 * BRIEF)
    with pytest.raises(TimeoutError):
        list(stream)
    assert link.call("echo", (1,), deadline=soon()) == 1


@pytest.mark.parametrize("take", [next, Stream.take_nowait])
def test_a_deadline_is_kept_while_items_are_there(link: Link, take: Any) -> None:
    stream = link.open_stream("count", (10**9,), deadline=soon())
    until(lambda: len(stream._items) == 16, "a window of items")
    assert take(stream) == 0
    stream.deadline = time.monotonic()
    with pytest.raises(shmhub.HubTimeoutError):
        take(stream)
    assert stream.closed
    until(lambda: link.in_flight == 0, "the producer to end")


def test_what_came_in_time_can_be_taken_after_the_deadline(link: Link) -> None:
    stream = link.open_stream("count", (4,), deadline=soon())
    until(lambda: link.in_flight == 0, "the end")
    stream.deadline = time.monotonic()
    assert list(stream) == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ["count", "acount"])
def test_a_producer_ends_at_the_deadline(link: Link, method: str) -> None:
    """Though its reader neither takes anything nor closes the stream."""
    stream = link.open_stream(method, (10**9,), deadline=time.monotonic() + 10 * BRIEF)
    until(lambda: link.in_flight == 0, "the producer to end")
    with pytest.raises(shmhub.HubTimeoutError):
        list(stream)
    assert link.call("echo", (1,), deadline=soon()) == 1


def test_a_death_ends_a_stream(rig: Rig, link: Link) -> None:
    stream = link.open_stream("count", (10**9,))
    assert next(stream) == 0
    rig.kill(link)
    with pytest.raises(CallLost) as lost:
        for _ in stream:
            pass
    assert lost.value.outcome == "may_have_run"
    assert list(stream) == []


def squares(most: int) -> Iterator[int]:
    for number in range(most):
        yield number * number


async def asquares(most: int) -> AsyncIterator[int]:
    for number in range(most):
        yield number * number


def test_a_generator_as_an_argument(rig: Rig, link: Link) -> None:
    expected = sum(number * number for number in range(300))
    assert link.call("total", (squares(300),), deadline=soon()) == expected
    assert link.call("total", (asquares(300),), deadline=soon()) == expected
    arguments: dict[str, Any] = {"others": squares(100)}
    both = link.call("total", (squares(300),), arguments, deadline=soon())
    assert both == expected + sum(number * number for number in range(100))
    assert list(link.open_stream("doubled", (squares(50),), deadline=soon())) == [
        2 * number * number for number in range(50)
    ]
    # From one plugin's stream into another's argument.
    counted = link.open_stream("count", (100,))
    assert rig.plugin("other").call("total", (counted,), deadline=soon()) == sum(range(100))


def test_a_generator_that_nobody_reads_is_closed(rig: Rig, link: Link) -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            closed.set()

    assert link.call("take", (endless(), 30), deadline=soon()) == list(range(30))
    assert closed.wait(PATIENCE)

    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("lost")

    with pytest.raises(KeyError):
        link.call("total", (broken(),), deadline=soon())
    assert link.call("echo", (1,), deadline=soon()) == 1
    assert link.uploads == {}
    assert link.outflows == {}


def fails_with(error: BaseException) -> Iterator[int]:
    yield 1
    raise error


async def afails_with(error: BaseException) -> AsyncIterator[int]:
    yield 1
    raise error


@pytest.mark.parametrize(
    "kind", [Nameless, Speechless, Stubborn, Unspeakable], ids=lambda kind: kind.__name__
)
def test_whatever_a_generator_raises_its_reader_is_told(link: Link, kind: type[Exception]) -> None:
    for items in (fails_with(kind("odd")), afails_with(kind("odd"))):
        with pytest.raises(shmhub.RemoteError):
            link.call("total", (items,), deadline=soon())
    assert link.call("echo", (1,), deadline=soon()) == 1


@pytest.mark.parametrize("way", ["withdrawn", "dead", "never received", "refused"])
def test_a_generator_of_a_lost_call_can_be_sent_again(rig: Rig, tmp_path: Path, way: str) -> None:
    """As long as nobody has opened it."""
    link = rig.plugin()
    gate = tmp_path / "gate"
    if way == "never received":
        os.kill(link.process.pid, signal.SIGSTOP)  # type: ignore[attr-defined]
    else:  # the only thread
        busy = link.begin("wait_for", (str(gate),))
    numbers, anumbers = squares(10), asquares(10)
    waiting = link.begin("total", (numbers,), {"others": anumbers})
    if way == "withdrawn":
        waiting.withdraw()
    elif way == "refused":
        link.bye()
        link.ping(soon())  # so it has read that, too
        gate.touch()
    elif way == "dead":
        link.ping(soon())  # so it has been received
        rig.kill(link)
    else:
        rig.kill(link)
    assert waiting.wait(soon())
    with pytest.raises(CallLost) as lost:
        waiting.result()
    assert lost.value.outcome == ("may_have_run" if way == "dead" else "not_started")
    assert not lost.value.consumed
    if way == "withdrawn":
        gate.touch()
        assert busy.wait(soon())
    assert link.uploads == {}
    again = rig.plugin("again")
    both = again.call("total", (numbers,), {"others": anumbers}, deadline=soon())
    assert both == 2 * sum(number * number for number in range(10))


def test_a_generator_that_was_opened_cannot_be_sent_again(rig: Rig, link: Link) -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    reading = link.begin("total", (endless(),))
    until(lambda: reading.consumed, "the plugin to read")
    rig.kill(link)
    assert reading.wait(soon())
    with pytest.raises(CallLost) as lost:
        reading.result()
    assert (lost.value.outcome, lost.value.consumed) == ("may_have_run", True)
    assert closed.wait(PATIENCE)


def test_streams_of_callbacks(rig: Rig, link: Link) -> None:
    rig.callback(squares)
    rig.callback(lambda items: sum(items), "sum_up")
    rig.engine.callbacks_changed()
    assert link.call("pull", ("squares", 40), deadline=soon()) == [
        number * number for number in range(40)
    ]
    assert link.call("push", ("sum_up", 40), deadline=soon()) == sum(range(40))


@pytest.mark.parametrize("which", [0, 3, 9])
def test_an_item_that_is_lost_on_its_way_is_missed(
    link: Link, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    put = Stream.put
    monkeypatch.setattr(
        Stream, "put", lambda self, frame: put(self, frame) if frame.method != which else None
    )
    stream = link.open_stream("count", (10,), deadline=soon())
    items = []
    with pytest.raises(shmhub.ProtocolViolation, match="lost on"):
        items.extend(stream)
    assert items == list(range(which))
    send = link.send_flow
    monkeypatch.setattr(
        link,
        "send_flow",
        lambda *args, number, **rest: (
            send(*args, number=number, **rest) if number != which else None
        ),
    )
    with pytest.raises(shmhub.RemoteError, match="lost on"):
        link.call("total", (squares(10),), deadline=soon())


def test_more_items_than_asked_for_end_the_stream(rig: Rig) -> None:
    link = rig.plugin()
    stream = link.open_stream("overrun", (1000,), deadline=soon())
    seen = []
    with pytest.raises(shmhub.ProtocolViolation, match="nobody had asked for"):
        for item in stream:
            seen.append(item)
            link.ping(soon())
    assert seen == list(range(len(seen)))
    assert link.call("echo", (1,), deadline=soon()) == 1
