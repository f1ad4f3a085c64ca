"""Timeouts of any length: no wait of the system's is as long as a float may be."""

from __future__ import annotations

import concurrent.futures
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmhub
from tests.support.environment import PATIENCE
from tests.support.gate import Gate
from tests.support.plugins import ZOO, events, host
from tests.support.waiting import until

__all__ = ["events", "host"]  # fixtures

pytestmark = pytest.mark.time_limit(120)

MONTH = 30 * 86400  # more milliseconds than an int has


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("timeout", [MONTH, 1e10, 1e300, math.inf])
def test_a_timeout_as_long_as_one_likes(
    host: shmhub.PluginHost, gate: Gate, timeout: float
) -> None:
    zoo = host.spawn(ZOO)
    running = zoo.submit("gate", gate.paths, "done", timeout=timeout)
    gate.wait_entered()
    # The loop has its timer by now, and goes on: a shorter one is in time.
    with pytest.raises(shmhub.HubTimeoutError):
        zoo.submit("echo", 1, timeout=0.01).result(PATIENCE)
    gate.let_go()
    assert running.result(PATIENCE) == "done"
    zoo.restart(timeout)
    zoo.wait_ready(timeout)
    assert zoo.options(timeout=timeout).echo(1) == 1
    assert list(zoo.stream("count", 2, timeout=timeout)) == [0, 1]


def test_other_long_times(host: shmhub.PluginHost) -> None:
    policy = shmhub.RestartPolicy(window=MONTH, backoff=MONTH, backoff_max=MONTH)
    times = {"call_timeout": 1e10, "watchdog": 4.0 * MONTH, "start_timeout": MONTH}
    zoo = host.spawn(ZOO, restart=policy, **times)
    for count in (1, 2):
        os.kill(zoo.pid or 0, signal.SIGKILL)
        until(lambda count=count: zoo.replicas[0].restarts == count, "a restart")  # type: ignore[misc]
        if count == 1:
            zoo.wait_ready(PATIENCE)
    # It is to be started in a month.
    assert zoo.state == "restarting"
    assert host.spawn(ZOO).echo(1) == 1


@pytest.mark.parametrize("timeout", [1e10, 10**400], ids=["1e10", "1e400"])
def test_waiting_without_end_while_nothing_is_ready(
    host: shmhub.PluginHost, gate: Gate, timeout: float
) -> None:
    zoo = host.spawn(ZOO)
    os.kill(zoo.pid or 0, signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        restarting = pool.submit(zoo.restart, timeout)
        until(lambda: zoo.state == "stopping", "the restart to begin")
        noting = pool.submit(zoo.notify, "gate", gate.paths, timeout=timeout)
        os.kill(zoo.pid or 0, signal.SIGKILL)
        restarting.result(PATIENCE)
        noting.result(PATIENCE)
    gate.wait_entered()
    gate.let_go()


def test_stopping_with_all_the_time_in_the_world(host: shmhub.PluginHost, gate: Gate) -> None:
    zoo = host.spawn(ZOO)
    running = zoo.submit("gate", gate.paths, "done")
    gate.wait_entered()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(zoo.stop, 1e10)
        until(lambda: zoo._replicas.group._drainers or stopping.done(), "the stop to wait")
        gate.let_go()
        stopping.result(PATIENCE)
    assert running.result(0) == "done"


@pytest.mark.parametrize("timeout", [math.nan, -1])
def test_what_is_no_timeout(host: shmhub.PluginHost, timeout: float) -> None:
    zoo = host.spawn(ZOO)
    for use in (
        lambda: zoo.call("echo", timeout=timeout),
        lambda: zoo.options(timeout=timeout),
        lambda: zoo.wait_ready(timeout),
        lambda: zoo.restart(timeout),
        lambda: zoo.stop(timeout),
        lambda: host.close(timeout),
    ):
        with pytest.raises(ValueError, match="timeout must be"):
            use()
    assert zoo.echo(1) == 1
