"""The end of plugins: in good order if they can, by force if they must, and nothing is left."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shmhub
from tests.support.environment import BRIEF, PATIENCE, ROOT
from tests.support.gate import Gate
from tests.support.plugins import (
    ZOO,
    Events,
    events,
    has_ended,
    host,
    host_with,
    run_program,
    wait_ended,
    write_plugin,
)
from tests.support.waiting import until

__all__ = ["events", "host"]  # fixtures

pytestmark = pytest.mark.time_limit(180)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.close()


def test_stopping_waits_for_calls_and_runs_the_hooks(
    host: shmhub.PluginHost,
    events: Events,
    gate: Gate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes = tmp_path / "notes"
    monkeypatch.setenv("ZOO_NOTES", str(notes))
    zoo = host.spawn(ZOO)
    pid = zoo.pid
    running, waiting = zoo.submit("gate", gate.paths, "done"), zoo.submit("echo", "too")
    gate.wait_entered()
    gate.let_go()
    zoo.stop(PATIENCE)
    assert (running.result(0), waiting.result(0)) == ("done", "too")
    assert notes.read_text().split() == ["startup", "shutdown"]
    assert has_ended(pid or 0)
    assert (zoo.state, zoo.pid) == ("stopped", None)
    assert events.wait("stopped").exitcode == 0
    assert events.kinds[-1] == "stopped"
    for use in (lambda: zoo.echo(1), lambda: zoo.submit("echo", 1), lambda: zoo.notify("echo", 1)):
        with pytest.raises(shmhub.HubClosedError, match="was stopped"):
            use()
    zoo.stop()
    zoo.kill()


def test_calls_that_do_not_end_are_cancelled_and_the_plugin_is_killed(
    host: shmhub.PluginHost, events: Events, gate: Gate
) -> None:
    zoo = host.spawn(ZOO)
    zoo.ignore_sigterm()
    running, waiting = zoo.submit("gate", gate.paths), zoo.submit("echo", 1)
    gate.wait_entered()
    zoo.stop(BRIEF)
    assert running.cancelled()
    assert waiting.cancelled() or isinstance(waiting.exception(0), shmhub.HubClosedError)
    assert events.wait("stopped").signal == signal.SIGKILL


def test_a_call_that_waits_directly_is_told_when_its_plugin_is_killed(
    host: shmhub.PluginHost, gate: Gate
) -> None:
    zoo = host.spawn(ZOO)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(zoo.gate, gate.paths)
        gate.wait_entered()
        zoo.kill()
        with pytest.raises(shmhub.PluginDiedError):
            running.result(PATIENCE)


def test_a_stopped_process_can_be_ended(host: shmhub.PluginHost, events: Events) -> None:
    zoo = host.spawn(ZOO)
    os.kill(zoo.pid or 0, signal.SIGSTOP)
    zoo.stop(BRIEF)
    assert events.wait("stopped").pid is not None


def test_grandchildren_that_keep_the_pipes_hold_nothing_up(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO)
    child = zoo.start_child()
    zoo.stop(PATIENCE)
    wait_ended(child)


def test_leaving_with_waits_for_calls(leak_check: None, gate: Gate) -> None:
    gate.let_go()
    with host_with(stop_timeout=PATIENCE) as host:
        future = host.spawn(ZOO).submit("gate", gate.paths, "done")
    assert future.result(0) == "done"
    assert host.closed
    host.close()
    with pytest.raises(shmhub.HubClosedError):
        host.spawn(ZOO)


def test_leaving_with_by_an_exception_cancels_calls(leak_check: None, gate: Gate) -> None:
    with pytest.raises(ZeroDivisionError), host_with(stop_timeout=PATIENCE) as host:
        zoo = host.spawn(ZOO)
        running, waiting = zoo.submit("gate", gate.paths), zoo.submit("echo", 1)
        gate.wait_entered()
        # Only a cancelled call lets it out: whoever waits for the calls first waits for ever.
        waiting.add_done_callback(lambda _: running.add_done_callback(lambda _: gate.let_go()))
        raise ZeroDivisionError
    assert running.cancelled() and waiting.cancelled()


WILLING = """
import time
import shmhub
plugin = shmhub.Plugin("willing")
def until_cancelled(fifo):
    with open(fifo, "w"): pass
    # Nothing tells a plain function: it looks.
    while not shmhub.current_call().cancelled: time.sleep(0.001)
@plugin.method
def hold(fifo): until_cancelled(fifo)
@plugin.method
async def hold_async(fifo):
    import asyncio
    with open(fifo, "w"): pass
    await asyncio.sleep(3600)
@plugin.method
def items(fifo):
    yield 1
    until_cancelled(fifo)
    yield 2
@plugin.on_shutdown
def shutdown(): open(PATH, "w").close()
"""


@pytest.mark.parametrize("way", ["short", "long", "async", "items", "submit"])
def test_what_does_not_end_in_time_is_cancelled_and_not_killed(
    leak_check: None, tmp_path: Path, way: str
) -> None:
    note, fifo = tmp_path / "note", str(tmp_path / "fifo")
    os.mkfifo(fifo)
    code = WILLING.replace("PATH", repr(str(note)))
    ways: dict[str, Callable[[shmhub.PluginHandle], Any]] = {
        "short": lambda willing: willing.hold(fifo),
        "long": lambda willing: willing.call("hold", fifo=fifo, timeout=PATIENCE),
        "async": lambda willing: willing.hold_async(fifo),
        "items": lambda willing: list(willing.items(fifo)),
        "submit": lambda willing: willing.submit("hold", fifo).result(),
    }
    with host_with() as host:
        willing = host.spawn(write_plugin(tmp_path, code, "willing"))
        with concurrent.futures.ThreadPoolExecutor() as threads:
            call = threads.submit(ways[way], willing)
            with open(fifo):
                pass
            willing.stop(BRIEF)
            with pytest.raises((shmhub.HubClosedError, concurrent.futures.CancelledError)):
                call.result(PATIENCE)
    assert note.exists()


def test_a_host_that_is_dropped_ends_its_plugins(leak_check: None) -> None:
    zoo: shmhub.PluginHandle | None = host_with().spawn(ZOO)
    assert zoo is not None and zoo.pid is not None
    pid = zoo.pid
    assert zoo.echo(1) == 1  # the handle keeps its host
    del zoo
    wait_ended(pid)


def test_a_host_can_be_closed_from_an_event_and_from_a_done_callback(leak_check: None) -> None:
    for way in ("event", "callback"):
        done = concurrent.futures.Future[None]()

        def close(*_: object) -> None:
            made.close()  # noqa: B023
            done.set_result(None)  # noqa: B023

        made = host_with(
            on_event=lambda e: close() if e.kind == "died" and way == "event" else None  # noqa: B023
        )
        zoo = made.spawn(ZOO)
        if way == "event":
            os.kill(zoo.pid or 0, signal.SIGKILL)
        else:
            zoo.submit("echo", 1).add_done_callback(close)
        done.result(PATIENCE)
        assert made.closed


def test_what_plugins_write_is_logged_and_shown(
    leak_check: None, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "shmhub.plugin")
    with host_with(echo=True) as host:
        zoo = host.spawn(ZOO, name="loud", replicas=2)
        zoo.call_all("print_out", "to stdout")
        zoo.say("to stderr")
    lines = {(one.name, one.getMessage()) for one in caplog.records}
    assert ("shmhub.plugin.loud/0", "to stdout") in lines
    assert ("shmhub.plugin.loud/1", "to stdout") in lines
    shown = capsys.readouterr().err.splitlines()
    assert "[loud/0] to stdout" in shown and "[loud/1] to stdout" in shown
    assert any(line.endswith("] to stderr") for line in shown)


def test_a_flood_of_output_holds_nobody_up(leak_check: None) -> None:
    with host_with() as host:
        zoo = host.spawn(ZOO)
        flood = zoo.submit("say", "x" * 200, 20_000)
        assert flood.result(PATIENCE) is None
        assert zoo.echo(1) == 1


def test_run_by_hand_it_says_what_it_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ZOO],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert "zoo.py is a plugin of shmhub ('zoo')" in done.stderr
    assert "echo(value: Any = None)" in done.stderr
    assert "host.spawn('zoo.py')" in done.stderr
    module = subprocess.run(
        [sys.executable, "-m", "shmhub.plugin"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (module.returncode, "PluginHost.spawn" in module.stderr) == (2, True)


def test_functions_of_a_plugin_can_be_tested_without_a_process() -> None:
    done = run_program(
        """
        from tests.support.programs import zoo
        print(zoo.echo(5), list(zoo.count(2)), zoo.plugin)
        try:
            zoo.plugin.host.lookup()
        except Exception as error:
            print(type(error).__name__)
        """
    )
    assert done.stdout.splitlines()[0].startswith("5 [0, 1] <Plugin 'zoo' with echo")
    assert done.stdout.splitlines()[1] == "NotAttachedError"


@pytest.mark.parametrize("name", ["stop", "_hidden", "call"])
def test_methods_with_names_of_the_handle_are_refused(name: str) -> None:
    plugin = shmhub.Plugin("a")

    def function() -> None: ...

    function.__name__ = name
    with pytest.raises(ValueError, match="name="):
        plugin.method(function)
    if not name.startswith("_"):
        assert plugin.method(name=name)(function) is function
    with pytest.raises(ValueError, match="Plugin"):
        shmhub.Plugin("a", threads=0)
    with pytest.raises(TypeError, match="async"):
        plugin.on_startup(_async_hook)


async def _async_hook() -> None: ...


def test_a_shutdown_hook_that_raises_is_shown_and_the_others_run(
    host: shmhub.PluginHost, events: Events, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    path = write_plugin(
        tmp_path,
        f"""
        import shmhub
        plugin = shmhub.Plugin()
        @plugin.on_shutdown
        def first(): open({str(note)!r}, "w").close()
        @plugin.on_shutdown
        def second(): raise OSError("no camera")
        """,
    )
    host.spawn(path).stop(PATIENCE)
    assert note.exists()
    assert events.wait("stopped").exitcode == 0


def test_a_rolling_restart_loses_no_call(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO, replicas=2)
    before = zoo.call_all("process")
    futures = [zoo.submit("echo", number) for number in range(300)]
    zoo.restart(PATIENCE)
    futures += [zoo.submit("echo", number) for number in range(300, 600)]
    assert [one.result(PATIENCE) for one in futures] == list(range(600))
    assert not set(before) & set(zoo.call_all("process"))


@pytest.mark.parametrize("how", ["kill", "stop", "close"])
def test_a_restart_starts_nothing_after_the_end(
    host: shmhub.PluginHost, events: Events, how: str
) -> None:
    zoo = host.spawn(ZOO, replicas=3)
    os.kill(zoo.replicas[0].pid or 0, signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        restarting = pool.submit(zoo.restart)
        until(lambda: zoo.replicas[0].state == "stopping", "the restart to begin")
        if how == "kill":
            zoo.kill()
        else:
            {"stop": zoo.stop, "close": host.close}[how](0)
        with pytest.raises(shmhub.HubClosedError, match="was stopped"):
            restarting.result(PATIENCE)
    assert [(one.state, one.pid) for one in zoo.replicas] == [("stopped", None)] * 3
    host.close()  # so that all events have come
    assert events.kinds.count("started") == 3


def test_a_restart_that_comes_late_changes_nothing(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO)
    zoo.kill()
    made, begun = zoo._replicas, threading.Event()
    made.site.loop.post(made._renew, made.replicas[0], begun)  # as by a restart in another thread
    assert begun.wait(PATIENCE)
    assert (zoo.state, zoo.pid) == ("stopped", None)
    with pytest.raises(shmhub.HubClosedError, match="was stopped"):
        zoo.submit("echo", 1)


def test_a_spawn_that_meets_a_close_raises_and_leaves_no_process(
    leak_check: None, events: Events, gate: Gate
) -> None:
    host = host_with(on_event=events, stop_timeout=PATIENCE)
    zoo = host.spawn(ZOO)
    running = zoo.submit("gate", gate.paths)
    gate.wait_entered()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        closing = pool.submit(host.close)
        until(lambda: zoo._replicas.group._drainers, "the close to wait for the call")
        with pytest.raises(shmhub.HubClosedError, match="is closed"):
            host.spawn(ZOO)
        gate.let_go()
        closing.result(PATIENCE)
    running.result(0)
    assert events.kinds.count("started") == 1


@pytest.mark.parametrize("how", ["closed, then taken", "taken, then closed", "taken, then killed"])
def test_an_end_in_the_midst_of_a_spawn(
    leak_check: None, events: Events, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = host_with(on_event=events)
    take = host._site.take
    end = host.kill_all if how.endswith("killed") else host.close

    def meanwhile(made: Any) -> None:
        if how.startswith("taken"):
            take(made)
        end()
        if how.startswith("closed"):
            take(made)

    monkeypatch.setattr(host._site, "take", meanwhile)
    with pytest.raises(shmhub.HubClosedError):
        host.spawn(ZOO, replicas=2)
    if not host.closed:
        come_by = threading.Event()
        host._site.loop.post(come_by.set)  # behind whatever the spawn has asked for
        assert come_by.wait(PATIENCE)
    host.close()
    assert events.kinds.count("started") == 0


def test_a_close_ends_a_spawn_that_waits_for_its_plugin(
    leak_check: None, events: Events, gate: Gate, tmp_path: Path
) -> None:
    path = write_plugin(
        tmp_path,
        f"""
        import sys
        sys.path.append({str(ROOT)!r})
        from tests.support.gate import pass_gate
        pass_gate(*{gate.paths})
        """,
    )
    host = host_with(on_event=events)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        spawning = pool.submit(host.spawn, path, start_timeout=None)
        gate.wait_entered()
        host.close(0)
        with pytest.raises(shmhub.HubClosedError, match="closed meanwhile"):
            spawning.result(PATIENCE)
    wait_ended(events.wait("started").pid or 0)


def test_a_close_that_is_refused_closes_nothing(host: shmhub.PluginHost) -> None:
    with pytest.raises(ValueError, match="timeout must be"):
        host.close(-1)
    assert host.spawn(ZOO).echo(1) == 1


def test_one_plugin_that_goes_does_not_hide_what_happens_to_the_next(
    host: shmhub.PluginHost,
) -> None:
    site = host._site
    replica: Any = object()
    told = threading.Event()

    class Leaving:
        @property
        def replicas(self) -> tuple[Any, ...]:
            site.all.remove(self)  # type: ignore[arg-type]
            return ()

    class Staying:
        replicas = (replica,)
        state_changed = told.set

    before: list[Any] = [Leaving(), Staying()]
    site.all.extend(before)
    site.state_changed(replica)
    site.all.remove(before[1])
    assert told.is_set()
