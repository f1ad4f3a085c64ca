"""Ctrl-C while a call waits; and what an exception still is after two hops."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmhub
from shmhub.testing import wait_for_slots
from tests.support.environment import PATIENCE
from tests.support.gate import Gate
from tests.support.plugins import ZOO, events, host, write_plugin
from tests.support.waiting import until

__all__ = ["events", "host"]  # fixtures


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.close()


pytestmark = pytest.mark.time_limit(120)


@pytest.mark.parametrize("way", ["call", "result", "items"])
def test_ctrl_c_during_a_call_cancels_it_over_there(
    host: shmhub.PluginHost, tmp_path: Path, way: str
) -> None:
    path = write_plugin(
        tmp_path,
        """
        import time
        import shmhub
        plugin = shmhub.Plugin("waiting")
        ENDS = []
        def wait(fifo):
            call = shmhub.current_call()
            with open(fifo, "w"): pass
            try:
                while not call.cancelled: time.sleep(0.001)  # nothing tells a plain function
                ENDS.append("cancelled")
            finally:
                ENDS.append("left")
        @plugin.method
        def hold(fifo, ballast): wait(fifo)
        @plugin.method
        def items(fifo, ballast):
            yield 1
            wait(fifo)
            yield 2
        @plugin.method
        def ends(): return ENDS
        """,
    )
    waiting = host.spawn(path)
    fifo = tmp_path / "begun"
    os.mkfifo(fifo)

    def interrupt() -> None:
        with open(fifo):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    ballast = bytes(20_000)
    with pytest.raises(KeyboardInterrupt):
        if way == "call":
            waiting.hold(str(fifo), ballast)
        elif way == "result":
            future = waiting.submit("hold", str(fifo), ballast)
            try:
                future.result(PATIENCE)
            except KeyboardInterrupt:
                assert future.cancel()  # a Future outlives who waits for it
                raise
        else:
            with waiting.items(str(fifo), ballast) as items:
                list(items)
    thread.join()
    # It ran in the only thread there: this call comes after it.
    assert waiting.ends()[:1] == ["cancelled"]
    until(lambda: waiting.replicas[0].calls == 0, "nothing to be under way")
    wait_for_slots(host)
    assert waiting.replicas[0].restarts == 0


def test_ctrl_c_before_a_call_has_begun(host: shmhub.PluginHost, tmp_path: Path) -> None:
    """It waits for the only replica; the plugin never hears of it."""
    zoo = host.spawn(ZOO)
    gate = Gate(tmp_path)
    running = zoo.submit("gate", gate.paths)
    gate.wait_entered()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        zoo.remember("never")
    # It may have been sent ahead: a ping is answered when its cancel has been read.
    zoo._replicas.group.channels[0].link.ping(time.monotonic() + PATIENCE)
    gate.let_go()
    running.result(PATIENCE)
    gate.close()
    assert zoo.remembered() == []
    wait_for_slots(host)


ERRORS = (
    TimeoutError,
    ConnectionError,
    shmhub.HubTimeoutError,
    shmhub.HubClosedError,
    shmhub.PeerGoneError,
)


@pytest.mark.parametrize("way", ["call", "with kwargs", "result", "items"])
@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_what_a_signal_handler_raises_is_raised(
    host: shmhub.PluginHost, gate: Gate, kind: type[BaseException], way: str
) -> None:
    """Also where it is of a class that a receive raises, too."""
    zoo = host.spawn(ZOO)
    assert zoo.echo(1) == 1

    def interrupt() -> None:
        gate.wait_entered()
        os.kill(os.getpid(), signal.SIGUSR1)

    def handler(*_: object) -> None:
        raise kind("the handler's")

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        thread.start()
        with pytest.raises(kind, match="the handler's"):
            if way == "call":
                zoo.gate(gate.paths)
            elif way == "with kwargs":
                zoo.call("gate", gate.paths, value=1, timeout=PATIENCE)
            elif way == "result":
                zoo.submit("gate", gate.paths).result(PATIENCE)
            else:
                list(zoo.gated(gate.paths))
        thread.join(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, before)
        gate.let_go()
    assert zoo.echo(2) == 2


def test_a_call_in_a_signal_handler_while_another_thread_reads(
    host: shmhub.PluginHost, tmp_path: Path
) -> None:
    """It sleeps inside the sleep of the call that it interrupts; both are woken."""
    zoo = host.spawn(ZOO, threads=3)
    gates = {name: Gate(tmp_path, name) for name in ("reader", "outer")}
    inner: list[object] = []

    def handler(*_: object) -> None:
        inner.append(zoo.echo("inner"))
        gates["outer"].let_go()

    def interrupt() -> None:
        gates["outer"].wait_entered()
        os.kill(os.getpid(), signal.SIGUSR1)

    reader = threading.Thread(target=zoo.gate, args=(gates["reader"].paths,))
    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        reader.start()
        gates["reader"].wait_entered()  # it has the turn, and keeps it
        thread.start()
        assert zoo.call("gate", gates["outer"].paths, "outer", timeout=PATIENCE) == "outer"
    finally:
        signal.signal(signal.SIGUSR1, before)
        for one in gates.values():
            one.let_go()
        reader.join(PATIENCE)
        thread.join(PATIENCE)
        for one in gates.values():
            one.close()
    assert inner == ["inner"]


HOPS = """
    import shmhub
    plugin = shmhub.Plugin("hopping")
    class Own(KeyError): pass
    @plugin.method
    def fail(kind):
        if kind == "own": raise Own("from the second")
        raise {"value": ValueError, "key": KeyError, "zero": ZeroDivisionError}[kind]("from B")
    @plugin.method
    def relay(kind):
        try:
            plugin.host.ask_b(kind)
        except (ValueError, KeyError, ZeroDivisionError) as error:
            known = ValueError, KeyError, ZeroDivisionError
            plugin.host.note([one.__name__ for one in known if isinstance(error, one)])
            raise
"""


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [("value", ValueError), ("key", KeyError), ("zero", ZeroDivisionError), ("own", KeyError)],
)
def test_the_built_in_base_is_kept_over_two_hops(
    host: shmhub.PluginHost, tmp_path: Path, kind: str, builtin: type[Exception]
) -> None:
    """Host -> A, which calls back the host, which calls B, which raises."""
    path = write_plugin(tmp_path, HOPS)
    second = host.spawn(path, name="B")
    seen: list[list[str]] = []
    in_host: list[BaseException] = []

    @host.callback
    def ask_b(kind: str) -> None:
        try:
            second.fail(kind)
        except builtin as error:
            in_host.append(error)
            raise

    host.callback(seen.append, name="note")
    first = host.spawn(path, name="A")
    with pytest.raises(builtin) as failure:
        first.relay(kind)
    assert seen == [[builtin.__name__]]
    for error in (in_host[0], failure.value):
        assert isinstance(error, shmhub.RemoteError)
    # The way that it has come can be seen.
    trace = failure.value.remote_traceback
    assert "in relay" in trace
    assert "in fail" in trace or "in fail" in in_host[0].remote_traceback
