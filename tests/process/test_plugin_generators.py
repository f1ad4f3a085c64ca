"""Generators as arguments and results of calls whose plugin is stopped, started anew or killed."""

from __future__ import annotations

import concurrent.futures
import inspect
import os
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

import shmhub
from shmhub.testing import stopped
from tests.support.environment import PATIENCE
from tests.support.gate import Gate
from tests.support.plugins import ZOO, host_with
from tests.support.waiting import until

pytestmark = pytest.mark.time_limit(120)


@pytest.fixture
def host(leak_check: None) -> Iterator[shmhub.PluginHost]:
    with host_with() as made:
        try:
            yield made
        finally:
            made.kill_all()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.close()


def numbers(most: int = 100) -> Generator[int, None, None]:
    yield from range(most)


async def anumbers(most: int = 100) -> AsyncIterator[int]:
    for number in range(most):
        yield number


TOTAL = sum(numbers())


def kill(zoo: shmhub.PluginHandle) -> None:
    assert zoo.pid is not None
    os.kill(zoo.pid, signal.SIGKILL)


def test_of_a_call_that_had_not_started_when_its_plugin_died(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO)
    with stopped(zoo):
        futures = [zoo.submit("total", numbers()), zoo.submit("total", anumbers())]
        kill(zoo)
        assert [one.result(PATIENCE) for one in futures] == [TOTAL, TOTAL]


def test_of_calls_that_wait_while_their_plugin_restarts(
    host: shmhub.PluginHost, gate: Gate
) -> None:
    zoo = host.spawn(ZOO)
    busy = zoo.submit("gate", gate.paths)
    gate.wait_entered()
    futures = [zoo.submit("total", numbers()) for _ in range(10)]
    with pytest.raises(shmhub.HubTimeoutError):  # it goes on, once the gate is open
        zoo.restart(0.2)
    gate.let_go()
    assert busy.result(PATIENCE) is None
    assert [one.result(PATIENCE) for one in futures] == [TOTAL] * 10


def test_a_stream_that_waits_while_its_plugin_restarts(
    host: shmhub.PluginHost, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmhub.plugin._channel.PREFETCH_SECONDS", 1e6)  # calls go ahead of time
    zoo = host.spawn(ZOO)
    busy = zoo.submit("gate", gate.paths)
    gate.wait_entered()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        items = threads.submit(lambda: list(zoo.count(10)))
        with pytest.raises(shmhub.HubTimeoutError):
            zoo.restart(0.2)
        gate.let_go()
        assert items.result(PATIENCE) == list(range(10))
    assert busy.result(PATIENCE) is None


def test_a_call_is_not_repeated_without_what_was_read(host: shmhub.PluginHost, gate: Gate) -> None:
    zoo = host.spawn(ZOO)
    given = numbers()
    future = zoo.submit("gated_total", gate.paths, given, 3)
    gate.wait_entered()
    kill(zoo)
    with pytest.raises(shmhub.PluginDiedError, match="generator among its arguments") as died:
        future.result(PATIENCE)
    assert (died.value.outcome, died.value.attempts) == ("may_have_run", 1)
    until(lambda: inspect.getgeneratorstate(given) == inspect.GEN_CLOSED, "it to be closed")
    assert zoo.echo(1) == 1
