"""Calls of one small message each way, which go past the queue and mostly through C.

What they share with others: turns at reading, places at the replica, ends of every kind.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import shmhub
from shmhub._rpc import _wire as wire
from tests.support.environment import PATIENCE
from tests.support.plugins import events, host, write_plugin

__all__ = ["events", "host"]  # fixtures

pytestmark = pytest.mark.time_limit(120)

BODY = """
    import os
    import threading
    import time

    import shmhub

    plugin = shmhub.Plugin("short")
    kept, views = [], []

    @plugin.method
    def echo(value):
        return value

    @plugin.method
    def which():
        call = shmhub.current_call()
        return [call.method, call.caller, call.deadline is not None, call.cancelled]

    @plugin.method
    def keep(tag):
        kept.append(shmhub.current_call())
        return [one.id for one in kept]

    @plugin.method
    def view(data: memoryview):
        views.append(data)
        return [type(data).__name__, bytes(views[0])]

    @plugin.method
    def large(size):
        return b"x" * size

    @plugin.method
    def ask(value):
        return plugin.host.answer(value)

    @plugin.method
    def wait_to_be_cancelled():
        call = shmhub.current_call()
        while not call.cancelled:
            time.sleep(0.001)
        plugin.host.answer("cancelled")

    @plugin.method
    def wait_for(path):
        while not os.path.exists(path):
            time.sleep(0.001)
        return "mine"

    @plugin.method
    def answer_for_another(call_id, channel, path):
        def post():
            time.sleep(0.2)
            transport.post(b"T", 0, channel, 0, 0, call_id, None, 0)
            open(path, "w").close()

        transport = shmhub.current_call().link.transport
        threading.Thread(target=post).start()

    @plugin.method
    def leave():
        os._exit(3)

    if __name__ == "__main__":
        plugin.run()
"""


@pytest.fixture
def short(host: shmhub.PluginHost, tmp_path: Path) -> shmhub.PluginHandle:
    host.callback(lambda value: value, name="answer")
    return host.spawn(write_plugin(tmp_path, BODY, "short"))


def streak(plugin: shmhub.PluginHandle) -> int:
    """How often a call has gone the short way."""
    reading: Any = plugin._replicas.group.channels[0].link.endpoint.reading
    count: int = reading.turn.streak
    return count


def goes_the_short_way(plugin: shmhub.PluginHandle) -> None:
    """Until the lookout leaves the reading to the callers."""
    before = streak(plugin)
    end = time.monotonic() + PATIENCE
    while streak(plugin) < before + 3:
        assert plugin.echo(1) == 1
        assert time.monotonic() < end


def test_values_of_every_plain_kind_and_size(short: shmhub.PluginHandle) -> None:
    goes_the_short_way(short)
    for value in (None, True, -1, 1 << 80, 2.5, "ä\ud800", b"", b"x" * 200, bytearray(b"y"), [], (),
                  {"a": (1, [2, {"b": b"c"}])}):  # fmt: skip
        assert short.echo(value) == value
        assert type(short.echo(value)) is type(value)
    assert bytes(short.echo(memoryview(b"abc"))) == b"abc"
    for size in (100, 230, 240, 241, 300, 5000, 1 << 20):
        assert short.large(size) == b"x" * size
        assert short.echo(b"y" * size) == b"y" * size


def test_the_running_call_is_its_own(short: shmhub.PluginHandle) -> None:
    goes_the_short_way(short)
    assert short.which() == ["which", "host", False, False]
    assert short.echo(1) == 1
    assert short.call("which", timeout=PATIENCE) == ["which", "host", True, False]
    assert short.which() == ["which", "host", False, False]
    ids = [short.keep(number)[-1] for number in range(3)]
    assert len(set(ids)) == 3
    assert short.keep("last")[:3] == ids  # an object that is kept is not used again
    assert short.view(b"first") == ["memoryview", b"first"]
    assert short.view(b"other") == ["memoryview", b"first"]


def test_errors_say_what_they_say_on_the_long_way(short: shmhub.PluginHandle) -> None:
    goes_the_short_way(short)
    with pytest.raises(TypeError, match=r"missing a required argument.*echo\(value\)"):
        short.echo()
    with pytest.raises(TypeError, match="too many positional"):
        short.echo(1, 2)
    with pytest.raises(TypeError) as failure:
        short.large("x")
    assert "in large" in failure.value.remote_traceback  # type: ignore[attr-defined]
    assert "large(size)" not in str(failure.value)
    with pytest.raises(shmhub.CodecError):
        short.echo(threading.Lock())
    assert short.echo(2) == 2


def test_callbacks_in_its_course(short: shmhub.PluginHandle) -> None:
    goes_the_short_way(short)
    assert [short.ask(number) for number in range(50)] == list(range(50))
    goes_the_short_way(short)


def test_calls_and_futures_of_many_threads(short: shmhub.PluginHandle) -> None:
    """Whoever queues because a call was under way is served when that has ended."""
    wrong: list[Any] = []

    def work(number: int) -> None:
        for turn in range(400):
            value = (number, turn)
            if number % 2:
                given = short.echo(value)
            else:
                future: Future[Any] = short.submit("echo", value)
                given = future.result(PATIENCE)
            if given != value:
                wrong.append((given, value))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    assert short.replicas[0].calls == 0


def test_a_stop_waits_for_it(host: shmhub.PluginHost, short: shmhub.PluginHandle) -> None:
    goes_the_short_way(short)
    ended: list[Any] = []

    def call() -> None:
        try:
            ended.append(short.wait_to_be_cancelled())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    until_called(short)
    short.stop(timeout=0.05)  # which cancels what is under way when its time is over
    thread.join(PATIENCE)
    assert len(ended) == 1


def test_it_dies_meanwhile(short: shmhub.PluginHandle) -> None:
    goes_the_short_way(short)
    with pytest.raises(shmhub.PluginDiedError) as failure:
        short.leave()
    assert failure.value.outcome == "may_have_run"
    assert failure.value.exitcode == 3
    assert short.echo(1) == 1  # started again


def next_id(link: Any) -> int:
    return int(re.search(r"\d+", repr(link.endpoint.next_id.__self__))[0])  # type: ignore[index]


@pytest.mark.parametrize("way", ["short", "long"])
def test_another_plugin_that_guesses_the_id_is_not_the_one_that_answers(
    host: shmhub.PluginHost, short: shmhub.PluginHandle, tmp_path: Path, way: str
) -> None:
    liar = host.spawn(write_plugin(tmp_path, BODY, "liar"))
    link: Any = short._replicas.group.channels[0].link
    goes_the_short_way(short)
    liar.echo(1)
    path = str(tmp_path / "answered")
    count = next_id(link)
    liar.answer_for_another(link.life | (count + 1), wire.RESULT, path)
    if way == "short":
        assert short.wait_for(path) == "mine"
    else:
        assert short.wait_for(path=path) == "mine"
    assert next_id(link) == count + 2  # it was this call's id


@contextmanager
def on_alarm(handler: Callable[..., Any]) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Stop(BaseException):
    pass


def test_an_interrupted_call_is_cancelled(short: shmhub.PluginHandle) -> None:
    goes_the_short_way(short)

    def interrupt(*_: Any) -> None:
        raise Stop

    with on_alarm(interrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Stop):
            short.wait_to_be_cancelled()
    assert short.echo(1) == 1  # it was told, and has returned
    goes_the_short_way(short)
    assert short.replicas[0].calls == 0


def test_a_handler_of_signals_does_not_wait_for_itself(short: shmhub.PluginHandle) -> None:
    goes_the_short_way(short)
    said: list[BaseException] = []

    def handler(*_: Any) -> None:
        try:
            short.echo("in the handler")
        except RuntimeError as error:
            said.append(error)
        os.kill(short.pid or 0, signal.SIGKILL)

    with on_alarm(handler):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(shmhub.PluginDiedError):
            short.wait_to_be_cancelled()
    assert [str(one).partition(" was called from")[0] for one in said] == [
        "echo() of plugin 'short'"
    ]


def until_called(plugin: shmhub.PluginHandle) -> None:
    """Somebody's call is under way."""
    end = time.monotonic() + PATIENCE
    while plugin.replicas[0].calls == 0:
        assert time.monotonic() < end
        threading.Event().wait(0.001)
