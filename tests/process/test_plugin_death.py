"""Plugins that die: what becomes of their calls, who starts them again, and when nobody does."""

from __future__ import annotations

import concurrent.futures
import os
import random
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import shmhub
from tests.support.environment import PATIENCE, is_full_run
from tests.support.gate import Gate
from tests.support.plugins import ZOO, Events, events, host, host_with, wait_ended, write_plugin
from tests.support.waiting import until_equal

__all__ = ["events", "host"]  # fixtures

pytestmark = pytest.mark.time_limit(180)

ALWAYS = shmhub.RestartPolicy(max_restarts=None, backoff=0.01, backoff_max=0.05)


@pytest.fixture
def gate(tmp_path: Path) -> Any:
    made = Gate(tmp_path)
    yield made
    made.close()


def test_a_call_that_may_have_run_is_reported_with_all_that_is_known(
    host: shmhub.PluginHost, events: Events
) -> None:
    zoo = host.spawn(ZOO)
    zoo.say("my last words")
    old = zoo.pid
    with pytest.raises(shmhub.PluginDiedError) as failure:
        zoo.die()
    error = failure.value
    assert (error.outcome, error.signal, error.exitcode) == ("may_have_run", signal.SIGKILL, None)
    assert (error.plugin, error.method, error.attempts) == ("zoo", "die", 1)
    assert (error.pid, error.stderr_tail) == (old, "my last words")
    assert "SIGKILL" in str(error) and "my last words" in str(error)
    with pytest.raises(shmhub.PluginDiedError) as failure:
        zoo.submit("leave", 3).result(PATIENCE)
    assert (failure.value.exitcode, failure.value.signal) == (3, None)
    assert zoo.echo("alive") == "alive"
    assert events.kinds[:5] == ["started", "ready", "died", "restarting", "started"]
    assert zoo.replicas[0].restarts == 2


def test_a_crash_shows_where(host: shmhub.PluginHost) -> None:
    with pytest.raises(shmhub.PluginDiedError) as failure:
        host.spawn(ZOO).die(signal.SIGSEGV)
    assert failure.value.signal == signal.SIGSEGV
    assert "in die" in failure.value.stderr_tail


def test_calls_wait_while_their_plugin_restarts(host: shmhub.PluginHost, gate: Gate) -> None:
    """The running one is reported, those behind it had not been started and are sent again."""
    zoo = host.spawn(ZOO)
    running = zoo.submit("gate", gate.paths)
    gate.wait_entered()
    behind = [zoo.submit("remember", number) for number in range(50)]
    assert zoo.pid is not None
    os.kill(zoo.pid, signal.SIGKILL)
    with pytest.raises(shmhub.PluginDiedError):
        running.result(PATIENCE)
    # In their order, each once, all by the successor.
    assert [one.result(PATIENCE) for one in behind] == list(range(1, 51))
    assert zoo.remembered() == list(range(50))


def test_an_idempotent_call_is_called_again(host: shmhub.PluginHost, gate: Gate) -> None:
    zoo = host.spawn(ZOO)
    future = zoo.submit("safe_gate", gate.paths, "value")
    for _ in range(1):
        gate.wait_entered()
        assert zoo.pid is not None
        os.kill(zoo.pid, signal.SIGKILL)
    gate.wait_entered()
    gate.let_go()
    assert future.result(PATIENCE) == "value"


def test_retry_is_the_callers_to_say(host: shmhub.PluginHost, gate: Gate) -> None:
    zoo = host.spawn(ZOO, restart=ALWAYS)
    future = zoo.options(retry=True).submit("gate", gate.paths, "again")
    gate.wait_entered()
    os.kill(zoo.pid or 0, signal.SIGKILL)
    gate.wait_entered()
    gate.let_go()
    assert future.result(PATIENCE) == "again"
    future = zoo.options(retry=False).submit("safe_gate", gate.paths)
    gate.wait_entered()
    os.kill(zoo.pid or 0, signal.SIGKILL)
    with pytest.raises(shmhub.PluginDiedError):
        future.result(PATIENCE)


@pytest.mark.parametrize("way", ["call", "submit"])
def test_a_call_that_is_called_again_keeps_its_deadline(
    host: shmhub.PluginHost, gate: Gate, way: str
) -> None:
    zoo = host.spawn(ZOO, restart=ALWAYS)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        if way == "call":
            future = threads.submit(zoo.call, "safe_gate", gate.paths, timeout=3)
        else:
            future = zoo.submit("safe_gate", gate.paths, timeout=3)
        gate.wait_entered()
        os.kill(zoo.pid or 0, signal.SIGKILL)
        gate.wait_entered()  # and nobody lets it out
        with pytest.raises(shmhub.HubTimeoutError):
            future.result(PATIENCE)
    gate.let_go()


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_poisonous_call_kills_no_more_replicas_than_it_may(
    host: shmhub.PluginHost, tmp_path: Path, attempts: int
) -> None:
    zoo = host.spawn(ZOO, replicas=2, restart=ALWAYS, max_attempts=attempts)
    log = tmp_path / "log"
    with pytest.raises(shmhub.PluginDiedError) as failure:
        zoo.poison(str(log))
    assert failure.value.attempts == attempts
    assert len(set(log.read_text().split())) == attempts
    with pytest.raises(shmhub.PluginDiedError):
        zoo.submit("poison", str(log)).result(PATIENCE)
    assert len(log.read_text().split()) == 2 * attempts
    assert zoo.echo(1) == 1


def test_one_that_dies_too_often_fails_for_good(host: shmhub.PluginHost, events: Events) -> None:
    zoo = host.spawn(ZOO, restart=shmhub.RestartPolicy(max_restarts=2, backoff=0.01))
    for _ in range(3):
        with pytest.raises(shmhub.PluginDiedError):
            zoo.die()
    events.wait("failed")
    for use in (lambda: zoo.echo(1), lambda: zoo.submit("echo", 1), lambda: list(zoo.count(3))):
        with pytest.raises(shmhub.PluginDiedError, match=r"failed for good, after 2 restarts") as e:
            use()
        assert e.value.outcome == "not_started"
    with pytest.raises(shmhub.PluginDiedError):
        zoo.notify("echo", 1)
    with pytest.raises(shmhub.PluginDiedError):
        zoo.wait_ready(PATIENCE)
    assert (zoo.state, zoo.pid) == ("failed", None)
    zoo.restart(PATIENCE)
    assert (zoo.echo(1), zoo.state) == (1, "ready")


def test_waiting_calls_raise_when_their_plugin_has_failed(
    host: shmhub.PluginHost, gate: Gate
) -> None:
    zoo = host.spawn(ZOO, restart=shmhub.RestartPolicy(max_restarts=0))
    running = zoo.submit("gate", gate.paths)
    gate.wait_entered()
    waiting = [zoo.submit("echo", number) for number in range(20)]
    os.kill(zoo.pid or 0, signal.SIGKILL)
    for future in (running, *waiting):
        with pytest.raises(shmhub.PluginDiedError):
            future.result(PATIENCE)


def test_the_other_replicas_go_on(host: shmhub.PluginHost, events: Events) -> None:
    zoo = host.spawn(ZOO, replicas=3, restart=shmhub.RestartPolicy(max_restarts=0))
    for number in range(2):
        with pytest.raises(shmhub.PluginDiedError):
            zoo.die()
        events.wait("failed", number + 1)
        assert zoo.echo(number) == number
    assert sorted(one.state for one in zoo.replicas) == ["failed", "failed", "ready"]
    zoo.wait_ready(PATIENCE)
    with pytest.raises(shmhub.PluginDiedError):
        zoo.die()
    events.wait("failed", 3)
    with pytest.raises(shmhub.PluginDiedError, match="for good"):
        zoo.echo(1)


def test_one_that_leaves_by_itself_is_started_again(
    host: shmhub.PluginHost, events: Events
) -> None:
    zoo = host.spawn(ZOO)
    os.kill(zoo.pid or 0, signal.SIGTERM)
    assert events.wait("died").exitcode == 0
    assert zoo.echo(1) == 1


def test_one_that_cannot_start_again_is_tried_until_the_limit(
    host: shmhub.PluginHost, events: Events, tmp_path: Path
) -> None:
    path = write_plugin(
        tmp_path,
        f"""
        import os, shmhub
        if os.path.exists({str(tmp_path / "broken")!r}):
            raise RuntimeError("broken by now")
        plugin = shmhub.Plugin()
        @plugin.method
        def die(): os._exit(9)
        """,
    )
    handle = host.spawn(path, restart=shmhub.RestartPolicy(max_restarts=2, backoff=0.01))
    (tmp_path / "broken").touch()
    with pytest.raises(shmhub.PluginDiedError):
        handle.die()
    with pytest.raises(shmhub.PluginDiedError, match="broken by now"):
        handle.die()
    assert events.kinds.count("started") == 3


def test_a_hung_call_is_killed_by_the_watchdog(host: shmhub.PluginHost, gate: Gate) -> None:
    zoo = host.spawn(ZOO, watchdog=0.3, restart=ALWAYS)
    for call in (
        lambda: zoo.gate(gate.paths),
        lambda: zoo.submit("gate", gate.paths).result(PATIENCE),
    ):
        with pytest.raises(shmhub.PluginDiedError, match="watchdog") as failure:
            call()
        assert "pass_gate" in failure.value.stderr_tail  # where it hung
        assert zoo.echo(1) == 1
    # A call that nobody waits for any more keeps its replica no longer than that.
    with pytest.raises(shmhub.HubTimeoutError):
        zoo.call("gate", gate.paths, timeout=0.05)
    assert zoo.echo(2) == 2


def test_the_watchdog_kills_what_holds_the_gil(host: shmhub.PluginHost, gate: Gate) -> None:
    zoo = host.spawn(ZOO, watchdog=1, restart=ALWAYS)
    with pytest.raises(shmhub.PluginDiedError, match="watchdog"):
        zoo.hold_the_gil(gate.paths)
    assert zoo.echo(1) == 1


def test_the_watchdog_leaves_short_calls_alone(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO, watchdog=5)
    old = zoo.pid
    futures = [zoo.submit("echo", number) for number in range(2000)]
    assert [one.result(PATIENCE) for one in futures] == list(range(2000))
    assert zoo.pid == old


def test_a_stopped_plugin_is_not_taken_for_dead(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO)
    os.kill(zoo.pid or 0, signal.SIGSTOP)
    with pytest.raises(shmhub.HubTimeoutError):
        zoo.call("echo", 1, timeout=0.3)
    os.kill(zoo.pid or 0, signal.SIGCONT)
    assert zoo.echo(2) == 2
    assert zoo.replicas[0].restarts == 0


def test_a_stream_whose_plugin_dies_says_so(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO)
    numbers = zoo.count(10**9)
    assert next(numbers) == 0
    os.kill(zoo.pid or 0, signal.SIGKILL)
    with pytest.raises(shmhub.PluginDiedError, match="not opened again") as failure:
        for _ in numbers:
            pass
    assert failure.value.signal == signal.SIGKILL
    assert zoo.echo(1) == 1


def test_every_call_ends_exactly_once_whatever_is_killed(
    leak_check: None, tmp_path: Path, rng: random.Random
) -> None:
    """Replicas are killed at random under load; each call ends once, by its result or an error."""
    calls, kills = (20_000, 60) if is_full_run() else (3_000, 12)
    ended: Counter[int] = Counter()
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()

    def note(number: int, future: Any) -> None:
        error = future.exception()
        with lock:
            ended[number] += 1
            if error is None:
                outcomes["result" if future.result() == number else "wrong"] += 1
            else:
                outcomes[type(error).__name__] += 1

    with host_with(stop_timeout=PATIENCE) as host:
        zoo = host.spawn(ZOO, replicas=3, restart=ALWAYS, max_attempts=100)
        stop = threading.Event()

        def killer() -> None:
            for _ in range(kills):
                if stop.wait(rng.uniform(0.0, 0.1)):
                    break
                pids = [one.pid for one in zoo.replicas if one.pid is not None]
                if pids:
                    with_pid = rng.choice(pids)
                    try:
                        os.kill(with_pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue

        def direct(first: int) -> None:
            for number in range(first, first + calls // 10):
                try:
                    value = zoo.echo(number)
                except shmhub.PluginDiedError as error:
                    with lock:
                        ended[number] += 1
                        outcomes[type(error).__name__] += 1
                else:
                    with lock:
                        ended[number] += 1
                        outcomes["result" if value == number else "wrong"] += 1

        threads = [threading.Thread(target=killer)]
        threads += [
            threading.Thread(target=direct, args=(calls + turn * calls // 10,)) for turn in range(2)
        ]
        for thread in threads:
            thread.start()
        for number in range(calls):
            future = zoo.submit("echo", number)
            future.add_done_callback(lambda future, number=number: note(number, future))
        for thread in threads[1:]:
            thread.join()
        stop.set()
        threads[0].join()
        last = zoo.submit("echo", -1)
        assert last.result(PATIENCE) == -1
    assert len(ended) == calls + 2 * (calls // 10)
    assert set(ended.values()) == {1}
    # Idempotent, with attempts to spare: all of them were answered.
    assert set(outcomes) == {"result"}, outcomes


def test_the_dead_leave_nothing(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO, restart=ALWAYS)
    child = zoo.start_child()
    before = host.statistics()
    for _ in range(5):
        with pytest.raises(shmhub.PluginDiedError):
            zoo.die()
    wait_ended(child)
    zoo.wait_ready(PATIENCE)
    assert len(host.statistics().peers) == len(before.peers)
    until_equal(
        lambda: [one.free for one in host.statistics().size_classes],
        [one.free for one in before.size_classes],
        "the slots of the dead",
        patience=5,
    )


def test_one_whose_message_was_lost_to_scribbling_is_replaced(
    host: shmhub.PluginHost, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer that is not there any more would be waited for without end."""
    zoo = host.spawn(ZOO)
    hub = host.hub
    link: Any = zoo._replicas.group.channels[0].link
    told = [("violation", link.peer_id, link.epoch, zoo.pid, "a message names another's slot")]
    future = zoo.submit("gate", gate.paths)
    gate.wait_entered()
    monkeypatch.setattr(hub, "next_event", lambda: told.pop() if told else None)
    link.endpoint.reading.failed(shmhub.ProtocolViolation("found in the ring"))
    with pytest.raises(shmhub.PluginDiedError, match="what no plugin may send") as failure:
        future.result(PATIENCE)
    assert failure.value.signal == signal.SIGKILL
    assert zoo.echo(1) == 1
    assert zoo.replicas[0].restarts == 1
