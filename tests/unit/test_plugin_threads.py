"""The loop and the workers: what runs where, in which order, and how they end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

import shmhub
from shmhub.plugin._loop import Loop
from shmhub.plugin._workers import Workers
from tests.support.environment import PATIENCE

pytestmark = pytest.mark.usefixtures("leak_check")


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop("test loop")
    yield made
    made.close()


def run(loop: Loop, function: object, *arguments: object) -> None:
    """Has the loop call it, and waits for that."""
    done = threading.Event()
    loop.post(function, *arguments)  # type: ignore[arg-type]
    loop.post(done.set)
    assert done.wait(PATIENCE)


def test_tasks_run_in_the_loop_in_order(loop: Loop) -> None:
    seen: list[object] = []
    for number in range(100):
        loop.post(seen.append, number)
    run(loop, lambda: seen.append(loop.is_here))
    assert seen == [*range(100), True]
    assert not loop.is_here


def test_timers_run_in_the_order_of_their_moments(loop: Loop) -> None:
    seen: list[int] = []
    done = threading.Event()

    def arm() -> None:
        now = time.monotonic()
        loop.call_at(now + 0.03, done.set)
        loop.call_at(now + 0.02, seen.append, 2)
        loop.call_at(now + 0.01, seen.append, 1)
        loop.call_at(now + 0.015, seen.append, 99).cancel()

    loop.post(arm)
    assert done.wait(PATIENCE)
    assert seen == [1, 2]


def test_a_readable_descriptor_is_told(loop: Loop) -> None:
    reader, writer = os.pipe()
    told = threading.Event()

    def readable() -> None:
        loop.unwatch(reader)
        told.set()

    run(loop, loop.watch, reader, readable)
    os.write(writer, b"x")
    assert told.wait(PATIENCE)
    os.close(reader)
    os.close(writer)


def test_a_function_that_raises_does_not_end_the_loop(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    run(loop, lambda: 1 // 0)
    assert "ZeroDivisionError" in caplog.text
    run(loop, lambda: None)


def test_closing_does_what_was_posted_before_and_nothing_after() -> None:
    loop = Loop("test loop")
    seen: list[int] = []
    loop.post(time.sleep, 0.05)
    loop.post(seen.append, 1)
    loop.close()
    loop.close()
    assert seen == [1]
    with pytest.raises(shmhub.HubClosedError):
        loop.post(seen.append, 2)


def test_one_worker_keeps_the_order_several_run_at_once() -> None:
    single = Workers(1, "single")
    seen: list[int] = []
    for number in range(50):
        single.post(seen.append, number)
    single.close(PATIENCE)
    assert seen == list(range(50))

    several = Workers(3, "several")
    barrier = threading.Barrier(3)
    for _ in range(3):
        several.post(barrier.wait, PATIENCE)
    several.close(PATIENCE)
    assert not barrier.broken


def test_a_worker_survives_what_a_callback_raises(caplog: pytest.LogCaptureFixture) -> None:
    workers = Workers(1, "worker")
    done = threading.Event()
    workers.post(lambda: 1 // 0)
    workers.post(done.set)
    assert done.wait(PATIENCE)
    workers.close(PATIENCE)
    assert "ZeroDivisionError" in caplog.text


def test_workers_close_without_a_callback_that_never_returns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    workers = Workers(1, "stuck worker")
    begun, let_go = threading.Event(), threading.Event()

    def stuck() -> None:
        begun.set()
        let_go.wait(PATIENCE)

    workers.post(stuck)
    assert begun.wait(PATIENCE)
    workers.close(0.05)
    assert "stuck worker" in caplog.text
    let_go.set()


def test_a_callback_may_close_its_own_workers() -> None:
    workers = Workers(1, "worker")
    done = threading.Event()
    workers.post(workers.close, PATIENCE)
    workers.post(done.set)
    assert done.wait(PATIENCE)


def test_what_comes_after_closing_runs_in_the_calling_thread() -> None:
    workers = Workers(1, "worker")
    workers.close(0)
    seen: list[threading.Thread] = []
    workers.post(lambda: seen.append(threading.current_thread()))
    assert seen == [threading.current_thread()]
