"""What a handle offers: calls of every kind, names, options, futures, streams, callbacks."""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import shmhub
from tests.support.environment import BRIEF, PATIENCE
from tests.support.gate import Gate
from tests.support.plugins import ZOO, events, host, write_plugin
from tests.support.waiting import until

__all__ = ["events", "host"]  # fixtures

pytestmark = pytest.mark.time_limit(120)


@pytest.fixture
def zoo(host: shmhub.PluginHost) -> shmhub.PluginHandle:
    return host.spawn(ZOO)


@pytest.fixture
def gate(tmp_path: Path) -> Any:
    made = Gate(tmp_path)
    yield made
    made.close()


def test_the_ways_to_call(zoo: shmhub.PluginHandle) -> None:
    assert zoo.echo("x") == zoo.call("echo", "x") == zoo.submit("echo", "x").result(PATIENCE) == "x"
    assert zoo.async_echo(3) == 3
    zoo.notify("remember", "n")
    assert zoo.remember("r") == 2
    assert zoo.remembered() == ["n", "r"]
    assert zoo.call_all("echo", 1) == [1]


def test_all_keywords_of_an_attribute_call_reach_the_plugin(zoo: shmhub.PluginHandle) -> None:
    assert zoo.kwargs(timeout=1, view=2, method=3, self=4) == {
        "timeout": 1,
        "view": 2,
        "method": 3,
        "self": 4,
    }
    assert zoo.call("kwargs", timeout=5, other=1) == {"other": 1}
    assert zoo.options(timeout=60).call("kwargs", timeout=5) == {"timeout": 5}


def test_a_name_of_the_handle_is_reached_through_methods(zoo: shmhub.PluginHandle) -> None:
    assert zoo.methods.stop() == zoo.call("stop") == "the plugin's own stop"
    assert "stop" in dir(zoo.methods)
    assert zoo.echo(1) == 1


def test_names_and_suggestions(zoo: shmhub.PluginHandle) -> None:
    assert {"echo", "call", "pid", "count"} <= set(dir(zoo))
    with pytest.raises(shmhub.PluginMissingMethod, match="did you mean 'echo'") as failure:
        zoo.ehco(1)
    assert failure.value.name == "ehco"
    with pytest.raises(shmhub.PluginMissingMethod, match="echo"):
        zoo.call("ehco", 1)
    with pytest.raises(AttributeError):
        zoo._private  # noqa: B018
    with pytest.raises(shmhub.PluginMissingMethod):
        zoo.call("_note", "x")
    assert zoo.echo.__name__ == "echo"
    with pytest.raises(TypeError, match="stream"):
        zoo.call("count", 3)
    with pytest.raises(TypeError, match="no generator"):
        zoo.stream("echo", 3)
    with pytest.raises(TypeError, match="cannot be sent"):
        pickle.dumps(zoo)


def test_errors_of_the_plugin(zoo: shmhub.PluginHandle) -> None:
    with pytest.raises(ValueError, match="too small") as failure:
        zoo.fail("too small")
    assert isinstance(failure.value, shmhub.RemoteError)
    assert (
        "def fail" in failure.value.remote_traceback or "in fail" in failure.value.remote_traceback
    )
    with pytest.raises(TypeError, match="fail"):
        zoo.fail()
    with pytest.raises(ValueError, match="later"):
        zoo.submit("fail", "later").result(PATIENCE)
    with pytest.raises((shmhub.CodecError, shmhub.RemoteError)):
        zoo.unpicklable_result()
    with pytest.raises(shmhub.CodecError):
        zoo.echo(lambda: None)
    with pytest.raises(shmhub.CodecError):
        zoo.submit("echo", lambda: None).result(PATIENCE)
    assert zoo.echo(1) == 1


def test_a_timeout_includes_queueing_and_the_replica_stays_busy(
    zoo: shmhub.PluginHandle, gate: Gate
) -> None:
    with pytest.raises(shmhub.HubTimeoutError) as failure:
        zoo.call("gate", gate.paths, timeout=BRIEF)
    assert failure.value.outcome == "may_have_run"
    gate.wait_entered()
    with pytest.raises(shmhub.HubTimeoutError) as failure:
        zoo.call("echo", 1, timeout=BRIEF)
    assert failure.value.outcome == "not_started"
    late = zoo.submit("echo", 1, timeout=BRIEF)
    with pytest.raises(shmhub.HubTimeoutError):
        late.result(PATIENCE)
    assert zoo.replicas[0].calls >= 1
    gate.let_go()
    assert zoo.echo(2) == 2
    until(lambda: zoo.replicas[0].calls == 0, "the late answer to be dropped")


def test_the_default_timeout_is_spawns(host: shmhub.PluginHost, gate: Gate) -> None:
    zoo = host.spawn(ZOO, call_timeout=BRIEF)
    with pytest.raises(shmhub.HubTimeoutError):
        zoo.gate(gate.paths)
    gate.let_go()
    assert zoo.call("echo", 1, timeout=PATIENCE) == 1
    assert zoo.options(timeout=None).deadline() is None
    assert zoo.options(timeout=PATIENCE).deadline() is not None


def test_a_running_call_can_be_cancelled(zoo: shmhub.PluginHandle, gate: Gate) -> None:
    running = zoo.submit("gate", gate.paths)
    gate.wait_entered()
    queued = [zoo.submit("remember", number) for number in range(20)]
    assert all(one.cancel() and one.cancelled() for one in queued)
    assert running.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        running.result(0)
    gate.let_go()
    assert len(zoo.remembered()) <= 2  # what was sent ahead may have been taken already
    done = zoo.submit("echo", 1)
    assert done.result(PATIENCE) == 1
    assert not done.cancel()


def test_futures_work_with_wait_and_as_completed(zoo: shmhub.PluginHandle) -> None:
    futures = [zoo.submit("echo", number) for number in range(300)]
    done, pending = concurrent.futures.wait(futures, PATIENCE)
    assert not pending
    assert sorted(one.result() for one in done) == list(range(300))
    more = [zoo.submit("echo", number) for number in range(20)]
    assert {one.result() for one in concurrent.futures.as_completed(more, PATIENCE)} == set(
        range(20)
    )


def test_done_callbacks_run_in_their_own_threads_and_may_call(zoo: shmhub.PluginHandle) -> None:
    seen: list[Any] = []
    done = threading.Event()

    def callback(future: Any) -> None:
        seen.append((threading.current_thread().name, future.result(), zoo.echo("again")))
        done.set()

    zoo.submit("echo", 1).add_done_callback(callback)
    assert done.wait(PATIENCE)
    assert seen == [("shmhub done-callback", 1, "again")] or seen[0][0] == "MainThread"


def test_the_ways_to_stream(zoo: shmhub.PluginHandle) -> None:
    assert list(zoo.count(3)) == list(zoo.stream("count", 3)) == [0, 1, 2]
    assert list(zoo.async_count(3)) == [0, 1, 2]


def test_a_stream_that_is_left_ends_over_there(zoo: shmhub.PluginHandle) -> None:
    with zoo.count(10**9) as numbers:
        assert next(numbers) == 0
    until(lambda: zoo.replicas[0].calls == 0, "the stream to end")
    assert zoo.echo(1) == 1


def test_plugins_call_back(host: shmhub.PluginHost) -> None:
    @host.callback
    def lookup(key: str, more: int) -> list[Any]:
        return [key, more, threading.current_thread() is threading.main_thread()]

    host.callback(lambda: "other", name="other")
    zoo = host.spawn(ZOO)
    assert zoo.ask_host("lookup", "k", 2) == ["k", 2, False]
    assert zoo.ask_host("other") == "other"

    def missing() -> None:
        raise KeyError("no such key")

    host.callback(missing)
    with pytest.raises(shmhub.RemoteError, match="no such key"):
        zoo.ask_host("missing")
    with pytest.raises(shmhub.RemoteError, match=r"lokup.*lookup"):
        zoo.ask_host("lokup", 1)
    for name in ("call", "_private", "lookup"):
        with pytest.raises(ValueError, match=name):
            host.callback(lookup, name=name)


def test_calls_back_and_forth_fifty_deep(host: shmhub.PluginHost) -> None:
    holder: list[shmhub.PluginHandle] = []
    host.callback(lambda depth: holder[0].nested(depth), name="nested")
    holder.append(host.spawn(ZOO))
    assert holder[0].nested(50) == 50
    holder.clear()


@pytest.mark.parametrize("way", ["call", "result", "exception"])
def test_callbacks_that_wait_keep_no_thread_from_others(host: shmhub.PluginHost, way: str) -> None:
    """As many as there are threads for callbacks, each of which needs another callback."""
    zoo, other = (host.spawn(ZOO, name=name, threads=8) for name in ("zoo", "other"))
    all_here = threading.Barrier(4)

    def outer() -> Any:
        all_here.wait(PATIENCE)
        if way == "call":
            return other.ask_host("inner")
        future = other.submit("ask_host", "inner")
        return future.result() if way == "result" else future.exception()

    host.callback(outer, name="outer")
    host.callback(lambda: 1, name="inner")
    futures = [zoo.submit("ask_host", "outer") for _ in range(4)]
    assert [one.result(PATIENCE) for one in futures] == [None if way == "exception" else 1] * 4


SLOW_TO_UNPICKLE = """
import shmhub
plugin = shmhub.Plugin("slow")
class Error(Exception):
    def __init__(self, code): self.code = code
    def __reduce__(self): return exec, (self.code,)
class Result(Error): pass
@plugin.method
def gives(code): return Result(code)
@plugin.method
def raises(code): raise Error(code)
@plugin.method
def items(code):
    yield 1
    raise Error(code)
"""


@pytest.mark.parametrize("method", ["gives", "raises", "items"])
def test_what_takes_long_to_unpickle_holds_up_nobody_else(
    host: shmhub.PluginHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """To unpickle is the application's code, and runs in the thread that wants the result."""
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    slow = host.spawn(write_plugin(tmp_path, SLOW_TO_UNPICKLE, "slow"))
    zoo = host.spawn(ZOO)
    monkeypatch.setenv("SHMHUB_TEST_HOST", fifo)  # the plugin, which tries it, waits for nothing
    code = "import os; fifo = os.environ.get('SHMHUB_TEST_HOST'); fifo and open(fifo).close()"
    if method == "items":
        stream = slow.items(code)
        assert next(stream) == 1
    else:
        future = slow.submit(method, code)
        done, _ = concurrent.futures.wait([future], PATIENCE, concurrent.futures.FIRST_EXCEPTION)
        assert done == {future}
    assert zoo.call("echo", 1, timeout=PATIENCE) == 1
    with concurrent.futures.ThreadPoolExecutor() as threads:
        outcome = threads.submit((lambda: list(stream)) if method == "items" else future.result)
        assert zoo.call("echo", 2, timeout=PATIENCE) == 2
        with open(fifo, "w"):
            pass
        if method == "gives":
            assert outcome.result(PATIENCE) is None
        else:
            with pytest.raises(shmhub.RemoteError):
                outcome.result(PATIENCE)


def test_many_threads_call_at_once(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO, replicas=2)
    wrong: list[Any] = []

    def use(number: int) -> None:
        for turn in range(200):
            answer = zoo.echo((number, turn))
            wrong.extend([answer] if answer != (number, turn) else [])

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert [one.calls for one in zoo.replicas] == [0, 0]


def test_large_payloads_both_ways_leave_no_slot(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO, replicas=2)
    payloads = [bytes([number]) * (300_000 * number) for number in range(1, 8)]
    assert [zoo.echo(one) for one in payloads] == payloads
    futures = [zoo.submit("echo", one) for one in payloads]
    assert [one.result(PATIENCE) for one in futures] == payloads
    view = zoo.options(view=True).echo(payloads[3])
    assert type(view) is memoryview and view == payloads[3]
    del view, futures
    until(
        lambda: sum(one.owned for one in host.statistics().size_classes) == 0,
        "all slots to be free",
    )


@pytest.mark.parametrize("way", ["call", "submit", "notify", "call_all"])
def test_a_generator_method_is_for_stream_alone(zoo: shmhub.PluginHandle, way: str) -> None:
    with pytest.raises(
        TypeError, match=rf"^{way}\('count'\): it is a generator.*: use stream\(\)$"
    ):
        getattr(zoo, way)("count", 3)
    with pytest.raises(TypeError, match=r"it is no generator.*: use call\(\)$"):
        zoo.stream("echo", 3)


def test_a_generator_cannot_be_a_callback(host: shmhub.PluginHost) -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def later() -> AsyncIterator[int]:
        yield 1

    for function in (numbers, later):
        with pytest.raises(TypeError, match="it is a generator"):
            host.callback(function)
