"""Several replicas behind one handle: who gets which call, what waits where, what is taken back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmhub
from tests.support.environment import PATIENCE
from tests.support.gate import Gate
from tests.support.plugins import ZOO, events, host, write_plugin
from tests.support.waiting import until

__all__ = ["events", "host"]  # fixtures

pytestmark = pytest.mark.time_limit(120)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.close()


def warm_up(zoo: shmhub.PluginHandle, calls: int = 400) -> None:
    """Has the replicas found to be fast, so that calls are sent ahead to them."""
    for future in [zoo.submit("echo", number) for number in range(calls)]:
        future.result(PATIENCE)


def test_calls_go_to_the_least_busy_replica(host: shmhub.PluginHost, gate: Gate) -> None:
    zoo = host.spawn(ZOO, replicas=3)
    futures = [zoo.submit("gate", gate.paths, number) for number in range(3)]
    gate.wait_entered(3)  # each in a process of its own, or the third would wait
    assert [one.calls for one in zoo.replicas] == [1, 1, 1]
    gate.let_go(3)
    assert [one.result(PATIENCE) for one in futures] == [0, 1, 2]


def test_a_slow_call_does_not_hold_back_those_behind_it(
    host: shmhub.PluginHost, gate: Gate
) -> None:
    zoo = host.spawn(ZOO, replicas=2)
    warm_up(zoo)
    slow = zoo.submit("gate", gate.paths, "slow")
    fast = [zoo.submit("echo", number) for number in range(500)]
    # Those that were sent to the slow one's replica are taken back from it.
    assert [one.result(PATIENCE) for one in fast] == list(range(500))
    assert not slow.done()
    gate.wait_entered()
    gate.let_go()
    assert slow.result(PATIENCE) == "slow"


def test_what_was_taken_back_runs_once(host: shmhub.PluginHost, gate: Gate) -> None:
    zoo = host.spawn(ZOO, replicas=2)
    for _round in range(5):
        warm_up(zoo, 100)
        before = sum(len(one) for one in zoo.call_all("remembered"))
        slow = zoo.submit("gate", gate.paths)
        counted = [zoo.submit("remember", number) for number in range(100)]
        for one in counted:
            one.result(PATIENCE)
        gate.let_go()
        slow.result(PATIENCE)
        gate.wait_entered()
        assert sum(len(one) for one in zoo.call_all("remembered")) == before + 100


def test_direct_calls_use_all_replicas(host: shmhub.PluginHost, gate: Gate) -> None:
    zoo = host.spawn(ZOO, replicas=3)
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.append(zoo.gate(gate.paths, "x"))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    gate.wait_entered(3)
    gate.let_go(5)
    for thread in threads:
        thread.join(PATIENCE)
    assert results == ["x"] * 5


def test_threads_of_a_plugin_run_at_once(host: shmhub.PluginHost, gate: Gate) -> None:
    zoo = host.spawn(ZOO, threads=3)
    futures = [zoo.submit("gate", gate.paths, number) for number in range(4)]
    gate.wait_entered(3)
    assert zoo.replicas[0].calls >= 3
    gate.let_go(4)
    assert [one.result(PATIENCE) for one in futures] == [0, 1, 2, 3]


def test_max_pending_refuses_and_recovers(host: shmhub.PluginHost, gate: Gate) -> None:
    zoo = host.spawn(ZOO, max_pending=3)
    running = zoo.submit("gate", gate.paths)
    gate.wait_entered()
    waiting = [zoo.submit("echo", number) for number in range(3)]
    with pytest.raises(shmhub.QueueFullError, match="max_pending is 3"):
        waiting.extend(zoo.submit("echo", number) for number in range(40))
    with pytest.raises(shmhub.QueueFullError):
        zoo.echo(1)
    waiting.pop().cancel()  # a cancelled one makes room
    waiting.append(zoo.submit("echo", 99))
    gate.let_go()
    running.result(PATIENCE)
    assert waiting[-1].result(PATIENCE) == 99
    assert zoo.echo(1) == 1


def test_call_all_reaches_each_and_tells_the_first_error(
    host: shmhub.PluginHost, gate: Gate
) -> None:
    zoo = host.spawn(ZOO, replicas=3, restart=shmhub.RestartPolicy(backoff=0.01))
    assert len(set(zoo.call_all("process"))) == 3
    busy = zoo.submit("gate", gate.paths)
    gate.wait_entered()
    gate.let_go()
    assert zoo.call_all("echo", 1) == [1, 1, 1]  # a busy one, too
    busy.result(PATIENCE)
    with pytest.raises(ValueError, match="all of them"):
        zoo.call_all("fail", "all of them")
    with pytest.raises(shmhub.PluginDiedError):
        zoo.call_all("die")
    zoo.wait_ready(PATIENCE)
    assert len(zoo.call_all("process")) == 3


def test_call_all_has_one_deadline_and_takes_no_generator(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO, replicas=2)
    with pytest.raises(TypeError, match="pass a list"):
        zoo.call_all("total", (number for number in range(9)))
    first, second = zoo.call_all("deadline", timeout=PATIENCE)
    assert abs(first - second) < 1e-6
    assert zoo.call_all("total", iter(range(9)), timeout=None) == [36, 36]  # copied to each


def test_streams_take_a_place_each(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO, replicas=2)
    one, two = zoo.count(10**9), zoo.count(10**9)
    assert (next(one), next(two)) == (0, 0)
    assert [each.calls for each in zoo.replicas] == [1, 1]
    waiting = zoo.submit("echo", "after a stream")
    one.close()
    assert waiting.result(PATIENCE) == "after a stream"
    two.close()
    until(lambda: [each.calls for each in zoo.replicas] == [0, 0], "the streams to end")


@pytest.mark.parametrize("way", ["next", "stream", "for"])
def test_a_stream_that_is_dropped_gives_its_place_back(host: shmhub.PluginHost, way: str) -> None:
    zoo = host.spawn(ZOO)
    if way == "for":
        for _ in zoo.count(10**9):
            break
    else:
        stream = zoo.count(10**9) if way == "next" else zoo.stream("count", 10**9)
        assert next(stream) == 0
        del stream
    assert zoo.call("echo", 1, timeout=PATIENCE) == 1
    until(lambda: zoo.replicas[0].calls == 0, "its place")


def test_calls_wait_for_the_first_replica_that_is_back(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO, replicas=2)
    for status in zoo.replicas:
        os.kill(status.pid or 0, signal.SIGKILL)
    assert zoo.echo("back") == "back"
    zoo.wait_ready(PATIENCE)
    assert [one.restarts for one in zoo.replicas] == [1, 1]


def test_a_call_from_a_callback_reaches_the_replica_that_waits_for_it(
    host: shmhub.PluginHost, tmp_path: Path
) -> None:
    """Two plugins and the host in one tree of calls, with one thread each and all of them busy."""
    body = """
        import shmhub
        plugin = shmhub.Plugin()
        @plugin.method
        def down(depth):
            return [plugin.name] + (plugin.host.step(plugin.name, depth - 1) if depth else [])
    """
    handles: dict[str, shmhub.PluginHandle] = {}

    @host.callback
    def step(caller: str, depth: int) -> list[str]:
        return list(handles["two" if caller == "one" else "one"].down(depth))

    for name in ("one", "two"):
        handles[name] = host.spawn(write_plugin(tmp_path, body, name))
    threads_results: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: threads_results.append(list(handles["one"].down(20))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert threads_results == [["one", "two"] * 10 + ["one"]] * 3
    handles.clear()


def test_a_deadline_while_nothing_is_ready(host: shmhub.PluginHost, tmp_path: Path) -> None:
    body = """
        import os, shmhub, time
        marker = MARKER
        if os.path.exists(marker):
            time.sleep(3600)
        open(marker, "w").close()
        plugin = shmhub.Plugin()
        @plugin.method
        def die(): os._exit(1)
    """
    path = write_plugin(tmp_path, body.replace("MARKER", repr(str(tmp_path / "marker"))))
    handle = host.spawn(path, start_timeout=PATIENCE)
    with pytest.raises(shmhub.PluginDiedError):
        handle.die()
    began = time.monotonic()
    for use in (
        lambda: handle.call("die", timeout=0.1),
        lambda: handle.submit("die", timeout=0.1).result(PATIENCE),
        lambda: handle.notify("die", timeout=0.1),
    ):
        with pytest.raises(shmhub.HubTimeoutError) as failure:
            use()
        assert failure.value.outcome == "not_started"
    with pytest.raises(shmhub.HubTimeoutError):
        handle.wait_ready(0.1)
    assert time.monotonic() - began >= 0.4
    assert handle.state in ("restarting", "starting")


def test_notifications_go_to_the_least_busy_replicas_in_turn(
    host: shmhub.PluginHost, gate: Gate
) -> None:
    zoo = host.spawn(ZOO, replicas=3)
    for number in range(6):
        zoo.notify("remember", number)
    assert [len(one) for one in zoo.call_all("remembered")] == [2, 2, 2]
    busy = zoo.submit("gate", gate.paths)
    gate.wait_entered()
    for number in range(4):
        zoo.notify("remember", number)
    gate.let_go()
    busy.result(PATIENCE)
    assert sorted(len(one) for one in zoo.call_all("remembered")) == [2, 4, 4]
