"""Calls between a host and a plugin: values, errors, deadlines, cancels, both directions."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import shmhub
from shmhub._rpc import CallLost, Link
from tests.support.environment import BRIEF, PATIENCE
from tests.support.programs.rpc_plugin import Stubborn, aodd, odd
from tests.support.rpc import Rig, soon
from tests.support.stage import Stage
from tests.support.waiting import until

THREADS = (1, 3)


@pytest.fixture(params=THREADS, ids=lambda count: f"{count} threads")
def rig(stage: Stage, request: pytest.FixtureRequest) -> Rig:
    made = Rig(stage)
    made.threads = request.param  # type: ignore[attr-defined]
    made.callback(lambda depth: 1 + up(made, depth), "up")
    made.start()
    return made


def up(rig: Any, depth: int) -> Any:
    return rig.link.call("down", (depth,), deadline=soon()) if depth >= 0 else 0


@pytest.fixture
def link(rig: Any) -> Link:
    rig.link = rig.plugin(threads=rig.threads)
    return rig.link  # type: ignore[no-any-return]


def test_a_call_and_its_value(link: Link) -> None:
    assert link.call("add", (1,), {"right": 5}) == 6
    assert link.call("add", (1,)) == 2
    assert link.call("sleep", (0.0, "slept")) == "slept"


def test_many_in_flight_and_threads(rig: Rig, link: Link) -> None:
    calls = [link.begin("echo", (number,)) for number in range(300)]
    for call in calls:
        assert call.wait(soon())
    assert [call.result() for call in calls] == list(range(300))
    wrong: list[int] = []

    def work(base: int) -> None:
        wrong.extend(
            number
            for number in range(base, base + 100)
            if link.call("echo", (number,), deadline=soon()) != number
        )

    threads = [threading.Thread(target=work, args=(1000 * one,)) for one in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert wrong == []
    assert link.in_flight == 0


def test_errors_are_told_apart(link: Link) -> None:
    with pytest.raises(ValueError, match="bad width") as caught:
        link.call("fail", ("ValueError", "bad width"))
    error = caught.value
    assert isinstance(error, shmhub.RemoteError)
    assert error.type_name == "ValueError"
    assert "in fail" in error.remote_traceback
    assert any("in fail" in note for note in error.__notes__)
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, ValueError)
    assert str(copy) == str(error)
    assert copy.remote_traceback == error.remote_traceback
    with pytest.raises(TypeError, match=r"left.*add\(left: int"):
        link.call("add", ())
    with pytest.raises(shmhub.PluginMissingMethod, match="did you mean 'echo'"):
        link.call("ecko", (1,))
    with pytest.raises(ValueError, match="text") as caught:
        link.call("fail", ("unpicklable", "text"))
    assert "Local" in caught.value.type_name
    with pytest.raises(FileNotFoundError) as missing:
        link.call("fail", ("FileNotFoundError", 2, "no such", "file.txt"))
    assert missing.value.errno == 2
    for kind in ("TimeoutError", "ConnectionResetError", "MemoryError", "HubTimeoutError"):
        with pytest.raises(shmhub.RemoteError) as remote:
            link.call("fail", (kind, "x"))
        assert not isinstance(remote.value, TimeoutError | ConnectionError | MemoryError)
    reasons = {}
    for kind in ("SystemExit", "KeyboardInterrupt", "MemoryError", "StopIteration"):
        with pytest.raises(shmhub.RemoteError) as remote:
            link.call("fail", (kind, "x"))
        reasons[kind] = remote.value.reason
    assert reasons == {
        "SystemExit": "exit",
        "KeyboardInterrupt": "interrupt",
        "MemoryError": "memory",
        "StopIteration": "raised",
    }
    with pytest.raises(RecursionError):
        link.call("recurse", ())
    assert link.call("echo", (1,)) == 1


ODD = {
    "Nameless": "raised",
    "Speechless": "raised",
    "Stubborn": "raised",
    "Unspeakable": "exit",
    "GeneratorExit": "raised",
    "SystemExit": "exit",
    "KeyboardInterrupt": "interrupt",
}


@pytest.mark.parametrize("kind", ODD)
def test_whatever_comes_of_it_a_call_is_answered(link: Link, kind: str) -> None:
    """Properties, texts and pickling are the application's: they may raise, and exit."""
    for method, args, kwargs in (
        ("odd", (kind,), {}),
        ("odd", (), {"kind": kind}),  # not the short way
        ("aodd", (kind,), {}),
    ):
        with pytest.raises(shmhub.RemoteError) as remote:
            link.call(method, args, kwargs, deadline=soon())
        assert remote.value.reason == ODD[kind]
    for method in ("odd_items", "aodd_items"):
        with pytest.raises(shmhub.RemoteError) as remote:
            list(link.open_stream(method, (kind,), deadline=soon()))
        assert remote.value.reason == ODD[kind]
    link.notify("odd", (kind,))
    link.notify("aodd", (kind,))
    assert link.call("echo", (1,), deadline=soon()) == 1
    assert link.call("sleep", (0.0, 2), deadline=soon()) == 2
    assert link.in_flight == 0


def test_arguments_that_exit_are_answered(link: Link) -> None:
    for method in ("echo", "sleep", "count"):
        with pytest.raises(shmhub.RemoteError) as remote:
            if method == "count":
                list(link.open_stream(method, (Stubborn(),), deadline=soon()))
            else:
                link.call(method, (Stubborn(),), deadline=soon())
        assert remote.value.reason == "exit"
    link.notify("echo", (Stubborn(),))
    assert link.call("echo", (1,), deadline=soon()) == 1


@pytest.mark.parametrize("kind", sorted(ODD.keys() - {"Unspeakable"}))  # pytest could not show it
def test_whatever_comes_of_it_a_callback_is_answered(rig: Rig, link: Link, kind: str) -> None:
    rig.callback(odd)
    rig.callback(aodd)
    rig.engine.callbacks_changed()
    for method in ("odd", "aodd"):
        with pytest.raises(shmhub.RemoteError, match=method):
            link.call("ask", (method, kind), deadline=soon())


def test_a_call_is_answered_that_is_cancelled_before_its_result_is_copied(
    rig: Rig, link: Link, tmp_path: Path
) -> None:
    told = threading.Event()
    rig.callback(lambda what: told.set(), "told")
    rig.engine.callbacks_changed()
    gate = tmp_path / "gate"
    call = link.begin("wait_for_a_copier", (str(gate),))
    assert told.wait(PATIENCE)
    call.cancel()
    until(lambda: call.answered, "the answer of a cancelled call")
    gate.touch()


def test_what_cannot_be_encoded(link: Link) -> None:
    with pytest.raises(shmhub.CodecError, match="lock"):
        link.call("echo", (threading.Lock(),))
    with pytest.raises(shmhub.CodecError, match="lock"):
        link.call("unencodable", ())
    with pytest.raises(shmhub.PayloadTooLargeError):
        link.call("echo", (bytes(17 << 20),))
    with pytest.raises(shmhub.CodecError, match="no slot of this hub"):
        link.call("size", (17 << 20,))


def test_a_deadline_travels(rig: Rig, link: Link) -> None:
    deadline = soon()
    seen = link.call("seen_call", (), deadline=deadline)
    assert seen["method"] == "seen_call"
    assert seen["deadline"] == pytest.approx(deadline)
    with pytest.raises(TimeoutError) as late:
        link.call("until_cancelled", (), deadline=time.monotonic() + BRIEF)
    assert late.value.outcome == "may_have_run"
    with pytest.raises(TimeoutError) as late:
        link.call("echo", (1,), deadline=time.monotonic() - 1)
    assert late.value.outcome == "not_started"
    assert link.call("echo", (2,), deadline=soon()) == 2


def test_cancelling(rig: Rig, link: Link, tmp_path: Path) -> None:
    told = threading.Event()
    rig.callback(lambda what: told.set(), "told")
    rig.engine.callbacks_changed()
    answered = threading.Event()
    running = link.begin("until_cancelled", (), on_answered=lambda call: answered.set())
    while link.ping(soon()) < 0:
        pass
    assert running.cancel()
    assert running.done
    assert not running.cancel()
    assert answered.wait(PATIENCE)
    forever = link.begin("forever", ())
    link.call("sleep", (0.0,))  # on the same loop: it has begun
    assert forever.cancel()
    assert told.wait(PATIENCE)
    # One that waits behind another is never started.
    gate = tmp_path / "gate"
    busy = [link.begin("wait_for", (str(gate),)) for _ in range(rig.threads)]  # type: ignore[attr-defined]
    behind = link.begin("echo", (1,))
    back = link.begin("echo", (2,))
    back.withdraw()
    assert back.wait(soon())
    with pytest.raises(CallLost) as lost:
        back.result()
    assert lost.value.outcome == "not_started"
    behind.cancel()
    gate.touch()
    assert all(call.wait(soon()) for call in busy)
    assert link.call("echo", (3,), deadline=soon()) == 3
    assert link.in_flight == 0


def test_calling_back_and_forth(rig: Rig, link: Link) -> None:
    assert link.call("down", (25,), deadline=soon()) == 50
    assert link.call("depth", (), deadline=soon()) == 0


def test_a_death_tells_what_was_not_started(rig: Rig, link: Link) -> None:
    assert link.call("echo", (1,)) == 1
    os.kill(link.process.pid, signal.SIGSTOP)  # type: ignore[attr-defined]
    never = link.begin("echo", (1,))
    rig.kill(link)
    assert never.wait(soon())
    with pytest.raises(CallLost) as lost:
        never.result()
    assert lost.value.outcome == "not_started"
    rig.wait_lost(link)
    with pytest.raises(CallLost) as lost:
        link.call("echo", (2,))
    assert lost.value.outcome == "not_started"
    # The next life of the id is another link.
    again = rig.plugin(threads=1)
    running = again.begin("until_cancelled", ())
    again.ping(soon())
    rig.kill(again)
    assert running.wait(soon())
    with pytest.raises(CallLost) as lost:
        running.result()
    assert lost.value.outcome == "may_have_run"


@pytest.mark.parametrize("kind", ["call", "stream"])
def test_a_death_while_a_call_is_sent(rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The thread that sends it is told last, and only it knows what became of the message."""

    def outcome(*, sent: bool, received: bool) -> str:
        link = rig.plugin()
        if not received:
            os.kill(link.process.pid, signal.SIGSTOP)  # type: ignore[attr-defined]
        put = link.put

        def meanwhile(*args: Any) -> None:
            monkeypatch.setattr(link, "put", put)
            if sent:
                put(*args)
            if received:
                link.ping(soon())
            rig.kill(link)
            rig.wait_lost(link)
            if not sent:
                put(*args)

        monkeypatch.setattr(link, "put", meanwhile)
        with pytest.raises(CallLost) as lost:
            if kind == "stream":
                list(link.open_stream("count", (10**9,)))
            else:
                link.call("until_cancelled", ())
        assert link.calls == {}
        return str(lost.value.outcome)

    assert outcome(sent=False, received=False) == "not_started"
    assert outcome(sent=True, received=False) == "not_started"
    assert outcome(sent=True, received=True) == "may_have_run"


def test_a_cancel_that_comes_before_there_is_a_task(
    rig: Rig, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless() -> None:
        await asyncio.Event().wait()

    rig.callback(endless)
    rig.engine.callbacks_changed()
    admit = rig.server._admit

    def cancelled_at_once(*args: Any) -> Any:
        call = admit(*args)
        if call is not None:
            call.cancel()
        return call

    monkeypatch.setattr(rig.server, "_admit", cancelled_at_once)
    with pytest.raises(shmhub.RemoteError):
        link.call("ask", ("endless",), deadline=soon())
