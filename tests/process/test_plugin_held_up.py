"""Calls that there is no room for, because a replica does not read: they hold up nobody else."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

import shmhub
from shmhub.testing import exhausted, stopped, wait_for_slots
from tests.support.environment import PATIENCE
from tests.support.plugins import ZOO, host_with
from tests.support.waiting import until

pytestmark = pytest.mark.time_limit(120)

# A ring for 16 messages: without a slot a large one fills it with its parts.
SMALL = shmhub.HubConfig(
    size_classes=(shmhub.SizeClass(1024, 4, 4), shmhub.SizeClass(16384, 2, 2)),
    max_peers=5,
    ring_capacity=16,
)
LARGE = bytes(range(256)) * 40


@pytest.fixture
def host(leak_check: None) -> Iterator[shmhub.PluginHost]:
    made = host_with(config=SMALL)
    try:
        yield made
    finally:
        made.kill_all()
        made.close()


@contextlib.contextmanager
def all_taken(host: shmhub.PluginHost) -> Iterator[None]:
    """Every slot, also those in which plugins have said hello a moment ago."""
    wait_for_slots(host)
    with exhausted(host):
        yield


def submit_held_up(zoo: shmhub.PluginHandle, count: int, **options: Any) -> list[Any]:
    """To a plugin that is stopped: more than fits into its ring. Returns at once, or hangs."""
    return [zoo.submit("echo", LARGE[number:], **options) for number in range(count)]


def test_submit_returns_though_there_is_no_room(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO)
    with all_taken(host), stopped(zoo):
        futures = submit_held_up(zoo, 5)
        assert not any(one.done() for one in futures)
    assert [one.result(PATIENCE) for one in futures] == [LARGE[number:] for number in range(5)]
    assert zoo.echo("then") == "then"


def test_other_replicas_are_not_held_up(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO, replicas=2)
    pid = zoo.pid
    with all_taken(host), stopped(pid):
        futures = submit_held_up(zoo, 12)  # some for each of them, some wait in the queue
        until(lambda: any(one.done() for one in futures), "the other replica to answer")
        assert {zoo.process() for _ in range(5)} != {pid}
        assert not all(one.done() for one in futures)
    assert [one.result(PATIENCE) for one in futures] == [LARGE[number:] for number in range(12)]


def test_what_comes_after_it_keeps_its_place(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO)
    with all_taken(host), stopped(zoo):
        futures = [zoo.submit("remember", value) for value in (LARGE, 1, LARGE[1:], 2, 3)]
    assert [one.result(PATIENCE) for one in futures] == [1, 2, 3, 4, 5]
    assert [zoo.memory(index) for index in range(5)] == [LARGE, 1, LARGE[1:], 2, 3]


def test_they_keep_their_order_when_their_replica_dies(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO)
    with all_taken(host), stopped(zoo):
        first = zoo.submit("echo", LARGE)
        futures = [zoo.submit("remember", number) for number in range(8)]
        assert zoo.pid is not None
        os.kill(zoo.pid, signal.SIGKILL)
        assert first.result(PATIENCE) == LARGE
        assert [one.result(PATIENCE) for one in futures] == list(range(1, 9))
        assert zoo.remembered() == list(range(8))


def test_a_callback_calls_the_plugin_that_waits_for_it(host: shmhub.PluginHost) -> None:
    """Its only thread takes that call all the same: it is known to be a part of its own."""
    zoo = host.spawn(ZOO)
    host.callback(lambda: zoo.submit("echo", LARGE).result(PATIENCE), name="again")
    with all_taken(host):
        assert zoo.call("ask_host", "again", timeout=PATIENCE) == LARGE


def test_a_generator_among_the_arguments_is_read_to_its_end(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO)
    with all_taken(host):
        future = zoo.submit("total", (number for number in range(100)), LARGE)
        assert future.result(PATIENCE) == 4950


def test_new_calls_go_to_a_replica_that_reads(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO, replicas=2, threads=8)
    first = zoo.pid
    assert first is not None
    with all_taken(host), stopped(first):
        held = [zoo.submit("echo", LARGE) for _ in range(2)]  # one for each
        until(lambda: any(one.done() for one in held), "the other replica to answer")
        pids = [zoo.submit("process") for _ in range(20)]
        assert first not in [one.result(PATIENCE) for one in pids]
    assert [one.result(PATIENCE) for one in held] == [LARGE, LARGE]


def test_deadline_of_a_call_that_is_held_up(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO)
    with all_taken(host), stopped(zoo):
        futures = submit_held_up(zoo, 3, timeout=0.05)
        for one in futures:
            with pytest.raises(shmhub.HubTimeoutError):
                one.result(PATIENCE)
    assert zoo.echo(LARGE) == LARGE


def test_cancelling_a_call_that_is_held_up(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO)
    with all_taken(host), stopped(zoo):
        futures = submit_held_up(zoo, 3)
        for one in futures:
            assert one.cancel()
            with pytest.raises(CancelledError):
                one.result(PATIENCE)
    assert zoo.echo(LARGE) == LARGE


def test_its_replica_dies(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO)
    with all_taken(host), stopped(zoo):
        futures = submit_held_up(zoo, 5)
        assert zoo.pid is not None
        os.kill(zoo.pid, signal.SIGKILL)
        # None was there whole: all are sent again, and answered by the next one, which has to say
        # hello without a slot.
        assert [one.result(PATIENCE) for one in futures] == [LARGE[number:] for number in range(5)]


def test_a_plugin_starts_though_every_slot_is_taken(host: shmhub.PluginHost) -> None:
    """What it says of itself, and the host of itself, goes through the ring in parts."""
    names = [f"callback_of_a_host_that_has_many_{number}" for number in range(20)]
    for name in names:
        host.callback(lambda name=name: name, name=name)
    with all_taken(host):
        zoo = host.spawn(ZOO)
        assert zoo.echo("hello") == "hello"
        host.callback(lambda: "late", name="late")
        assert [zoo.ask_host(name) for name in (*names, "late")] == [*names, "late"]
