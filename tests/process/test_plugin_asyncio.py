"""`shmhub.aio.PluginHost`: the same as the synchronous one, and never in the loop's way."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import shmhub
import shmhub.aio
from tests.support.environment import BRIEF, PATIENCE, ROOT
from tests.support.gate import Gate
from tests.support.plugins import ZOO, wait_ended, write_plugin
from tests.support.waiting import until

pytestmark = [pytest.mark.time_limit(120), pytest.mark.usefixtures("leak_check")]

CROWD = 40  # more than any pool of threads has

GATED = f"""
import collections
import sys
import threading
sys.path.append({str(ROOT)!r})
import shmhub
from tests.support.gate import pass_gate
plugin = shmhub.Plugin("gated", threads=3)
told = collections.defaultdict(threading.Event)

@plugin.method
def items(paths):
    try:
        for number in range(10**9):
            pass_gate(*paths)
            yield number
    finally:
        told[paths[0]].set()

@plugin.method
def closed(paths, patience):
    return told[paths[0]].wait(patience)
"""

Body = Callable[[shmhub.aio.PluginHost], Coroutine[Any, Any, None]]


def run(body: Body, **options: Any) -> None:
    async def main() -> None:
        async with shmhub.aio.PluginHost(echo=False, **options) as host:
            await body(host)

    asyncio.run(main())


def test_calls_names_and_errors() -> None:
    async def body(host: shmhub.aio.PluginHost) -> None:
        zoo = await host.spawn(ZOO, replicas=2)
        assert zoo.state == "ready" and len(zoo.replicas) == 2
        assert await zoo.echo("x") == await zoo.call("echo", "x") == await zoo.submit("echo", "x")
        assert await zoo.async_echo(3) == 3
        assert sorted(await asyncio.gather(*map(zoo.echo, range(100)))) == list(range(100))
        assert await zoo.kwargs(timeout=1, method=2) == {"timeout": 1, "method": 2}
        assert await zoo.methods.stop() == "the plugin's own stop"
        assert await zoo.call_all("echo", 1) == [1, 1]
        await zoo.notify("echo")
        with pytest.raises(ValueError, match="no"):
            await zoo.fail("no")
        with pytest.raises(shmhub.PluginMissingMethod, match="echo"):
            zoo.ecko  # noqa: B018
        with pytest.raises(TypeError, match="stream"):
            await zoo.call("count", 3)
        await zoo.restart()
        assert await zoo.echo(1) == 1
        await zoo.stop()
        with pytest.raises(shmhub.HubClosedError):
            await zoo.echo(1)

    run(body)


def test_large_arguments_arrive_whole() -> None:
    async def body(host: shmhub.aio.PluginHost) -> None:
        zoo = await host.spawn(ZOO)
        payloads = [bytes([number]) * (3 << 20) for number in range(6)]
        assert await asyncio.gather(*map(zoo.echo, payloads)) == payloads

    run(body)


@pytest.mark.parametrize("call", ["call", "call_all"])
def test_a_cancelled_call_is_cancelled_over_there(tmp_path: Path, call: str) -> None:
    target = write_plugin(
        tmp_path,
        """
        import threading
        import shmhub
        plugin = shmhub.Plugin("waiting", threads=2)
        told = threading.Event()

        @plugin.method
        def wait(path):
            open(path, "w").close()
            call = shmhub.current_call()
            while not call.cancelled:
                told.wait(0.01)
            told.set()

        @plugin.method
        def was_told():
            return told.wait(60)
        """,
    )
    begun = tmp_path / "begun"

    async def body(host: shmhub.aio.PluginHost) -> None:
        waiting = await host.spawn(target)
        task = asyncio.ensure_future(getattr(waiting, call)("wait", str(begun)))
        while not begun.exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await waiting.was_told()
        with pytest.raises(TimeoutError):
            await waiting.call("wait", str(begun), timeout=BRIEF)

    run(body)


def test_streams_end_are_left_and_raise(tmp_path: Path) -> None:
    target = write_plugin(
        tmp_path,
        """
        import shmhub
        plugin = shmhub.Plugin("streaming")

        @plugin.method
        def count(to):
            yield from range(to)

        @plugin.method
        def breaking(after):
            yield from range(after)
            raise KeyError("broken")
        """,
    )

    async def body(host: shmhub.aio.PluginHost) -> None:
        streaming = await host.spawn(target)
        assert [number async for number in streaming.count(1000)] == list(range(1000))
        async with streaming.count(10**9) as numbers:
            async for number in numbers:
                if number == 500:
                    break
        got = []
        with pytest.raises(KeyError):
            async for number in streaming.breaking(3):
                got.append(number)  # noqa: PERF401 - what came before the error
        assert got == [0, 1, 2]
        assert [number async for number in streaming.count(3)] == [0, 1, 2]  # its thread is free

    run(body)


def test_a_stream_ends_at_its_deadline(tmp_path: Path) -> None:
    target = write_plugin(tmp_path, GATED, "gated")
    gate = Gate(tmp_path)

    async def body(host: shmhub.aio.PluginHost) -> None:
        gated = await host.spawn(target)
        stream = gated.stream("items", gate.paths, timeout=1)
        with pytest.raises(shmhub.HubTimeoutError) as caught:
            await asyncio.wait_for(anext(stream), PATIENCE)
        assert caught.value.outcome == "may_have_run"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        while not await gated.closed(gate.paths, BRIEF):
            gate.let_go()  # it is closed between two items

    try:
        run(body)
    finally:
        gate.close()


def test_a_stream_can_be_closed_while_a_task_waits_for_it(tmp_path: Path) -> None:
    target = write_plugin(tmp_path, GATED, "gated")
    gates = Gate(tmp_path, "first"), Gate(tmp_path, "second")

    async def body(host: shmhub.aio.PluginHost) -> None:
        gated = await host.spawn(target)

        opening = gated.items(gates[0].paths)
        first = asyncio.ensure_future(anext(opening, "the end"))
        await asyncio.sleep(0)  # it has been asked for
        await opening.aclose()
        gates[0].let_go()
        assert await asyncio.wait_for(first, PATIENCE) == "the end"

        stream = gated.items(gates[1].paths)
        async with stream:
            waiting = asyncio.ensure_future(anext(stream, "the end"))
            await asyncio.to_thread(gates[1].wait_entered)
        assert await asyncio.wait_for(waiting, PATIENCE) == "the end"
        assert [number async for number in stream] == []
        with pytest.raises(shmhub.HubClosedError, match="items"):
            async with stream:
                pass
        while not await gated.closed(gates[1].paths, BRIEF):
            for gate in gates:
                gate.let_go()

    try:
        run(body)
    finally:
        for gate in gates:
            gate.close()


def test_each_item_goes_to_one_of_the_tasks_that_iterate() -> None:
    async def body(host: shmhub.aio.PluginHost) -> None:
        zoo = await host.spawn(ZOO)
        numbers = zoo.count(1000)

        async def iterate() -> list[int]:
            return [number async for number in numbers]

        first = asyncio.ensure_future(iterate())
        second = asyncio.ensure_future(anext(numbers))
        one = await second
        assert sorted([one, *await first]) == list(range(1000))

    run(body)


def test_a_stream_whose_opening_was_cancelled_has_not_ended() -> None:
    async def body(host: shmhub.aio.PluginHost) -> None:
        zoo = await host.spawn(ZOO)
        numbers = zoo.count(3)
        first = asyncio.ensure_future(anext(numbers))
        second = asyncio.ensure_future(anext(numbers))
        await asyncio.sleep(0)
        first.cancel()
        for _ in range(2):
            with pytest.raises(shmhub.HubClosedError, match="cancelled"):
                await second
            second = asyncio.ensure_future(anext(numbers))
        second.cancel()
        assert [number async for number in zoo.count(3)] == [0, 1, 2]  # its thread is free

    run(body)


def test_a_large_item_is_decoded_off_the_loop_and_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin(
        tmp_path,
        f"""
        import threading
        entered, may_go = threading.Semaphore(0), threading.Semaphore(0)

        class Item:
            def __init__(self, number, size):
                self.number, self.data = number, bytes(size)

            def __reduce__(self):
                return decoded, (self.number, self.data)

        def decoded(number, data):
            entered.release()
            may_go.acquire(timeout={PATIENCE})
            return number, threading.get_ident()
        """,
        "slowly_decoded",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("slowly_decoded")
    target = write_plugin(
        tmp_path,
        """
        import shmhub
        from slowly_decoded import Item
        plugin = shmhub.Plugin("streaming")

        @plugin.method
        def items(size):
            for number in range(3):
                yield Item(number, size)
        """,
    )

    async def body(host: shmhub.aio.PluginHost) -> None:
        streaming = await host.spawn(target)
        items = streaming.items(2 << 20)
        first = asyncio.ensure_future(anext(items))
        await asyncio.to_thread(module.entered.acquire)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        module.may_go.release()
        number, thread = await anext(items)
        assert number == 0 and thread != threading.get_ident()

        second = asyncio.ensure_future(anext(items))
        await asyncio.to_thread(module.entered.acquire)
        closing = asyncio.ensure_future(items.aclose())
        await asyncio.sleep(0)
        assert not closing.done()
        module.may_go.release()
        await closing
        assert (await second)[0] == 1
        assert [item async for item in items] == []

    run(body)


def test_callbacks_run_in_the_loop_or_in_a_thread() -> None:
    async def body(host: shmhub.aio.PluginHost) -> None:
        here = threading.get_ident()

        @host.callback
        async def double(value: int) -> tuple[int, bool]:
            await asyncio.sleep(0)
            return value * 2, threading.get_ident() == here

        @host.callback
        def triple(value: int) -> tuple[int, bool]:
            return value * 3, threading.get_ident() == here

        zoo = await host.spawn(ZOO)
        assert await zoo.ask_host("double", 4) == (8, True)
        assert await zoo.ask_host("triple", 4) == (12, False)

    run(body)


@pytest.mark.parametrize("end", ["kill", "close"])
def test_a_callback_of_the_loop_is_cancelled_with_its_call(end: str) -> None:
    async def body(host: shmhub.aio.PluginHost) -> None:
        begun, ended = asyncio.Semaphore(0), asyncio.Semaphore(0)

        @host.callback
        async def forever() -> None:
            begun.release()
            try:
                await asyncio.Event().wait()
            finally:
                ended.release()

        zoo = await host.spawn(ZOO, threads=2)
        calls = [zoo.submit("ask_host", "forever") for _ in range(2)]
        for _ in calls:
            await begun.acquire()
        if end == "kill":
            zoo.kill()
        else:
            await host.close(timeout=0)
            assert not ended.locked()
        for _ in calls:
            await asyncio.wait_for(ended.acquire(), PATIENCE)
        await asyncio.gather(*calls, return_exceptions=True)

    run(body)


def test_a_callback_of_the_loop_can_call_the_plugin_that_waits_for_it() -> None:
    large = bytes(2 << 20)

    async def body(host: shmhub.aio.PluginHost) -> None:
        zoo = await host.spawn(ZOO, threads=1)

        @host.callback
        async def back(how: str) -> Any:
            value = large if how == "large" else 1
            found = await (zoo.call_all if how == "all" else zoo.call)("echo", value)
            return found in (value, [value])

        for how in ("small", "large", "all"):
            assert await asyncio.wait_for(zoo.ask_host("back", how), PATIENCE)

    run(body)


def test_a_notified_callback_outlives_its_plugin_but_not_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmhub.plugin._site._CALLBACK_SECONDS", BRIEF)
    target = write_plugin(
        tmp_path,
        """
        import shmhub
        plugin = shmhub.Plugin("notifying")

        @plugin.method
        def tell():
            plugin.host.notify("note", call="of any name")
        """,
    )
    ended = []

    # Of the events, too, which come one after the other.
    async def forever(event: shmhub.PluginEvent) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(event.kind)

    async def body(host: shmhub.aio.PluginHost) -> None:
        begun, may_go, noted = asyncio.Event(), asyncio.Event(), asyncio.Event()

        @host.callback
        async def note(call: str) -> None:
            begun.set()
            await may_go.wait()
            noted.set()

        notifying = await host.spawn(target)
        await notifying.tell()
        await asyncio.wait_for(begun.wait(), PATIENCE)
        notifying.kill()
        may_go.set()
        await asyncio.wait_for(noted.wait(), PATIENCE)
        await host.close()
        assert ended == ["started"]

    run(body, on_event=forever)


def test_the_loop_runs_while_calls_wait(tmp_path: Path) -> None:
    gate = Gate(tmp_path)

    async def body(host: shmhub.aio.PluginHost) -> None:
        zoo = await host.spawn(ZOO)
        blocked = [zoo.submit("gate", gate.paths) for _ in range(20)]
        done, _ = await asyncio.wait(blocked, timeout=BRIEF)
        assert not done
        for task in blocked:
            task.cancel()
        gate.let_go(20)
        assert await zoo.echo(1) == 1

    try:
        run(body)
    finally:
        gate.close()


def test_async_callbacks_that_wait_keep_no_thread_from_others() -> None:
    """As many as there are threads for callbacks, each of which needs another callback."""

    async def body(host: shmhub.aio.PluginHost) -> None:
        zoo, other = [await host.spawn(ZOO, name=name, threads=8) for name in ("zoo", "other")]
        all_here = asyncio.Barrier(4)

        async def outer() -> Any:
            await all_here.wait()
            return await other.ask_host("inner")

        async def inner() -> int:
            return 1

        host.callback(outer)
        host.callback(inner)
        calls = asyncio.gather(*[zoo.ask_host("outer") for _ in range(4)])
        assert await asyncio.wait_for(calls, PATIENCE) == [1] * 4

    run(body)


def test_no_number_of_waits_holds_up_the_end_or_a_copy(tmp_path: Path) -> None:
    gate = Gate(tmp_path)

    async def body(host: shmhub.aio.PluginHost) -> None:
        zoo = await host.spawn(ZOO)
        busy = await host.spawn(ZOO, name="busy", threads=CROWD)
        calls = [asyncio.ensure_future(busy.call_all("gate", gate.paths)) for _ in range(CROWD)]
        await asyncio.to_thread(gate.wait_entered, CROWD)

        slow = shmhub.RestartPolicy(backoff=3600, backoff_max=3600)
        dead = await host.spawn(ZOO, name="dead", restart=slow)
        for _ in range(2):  # the first restart comes at once
            with pytest.raises(shmhub.PluginDiedError):
                await dead.die()
        await asyncio.to_thread(until, lambda: dead.state == "restarting", "the second restart")
        waits = [asyncio.ensure_future(dead.wait_ready()) for _ in range(CROWD)]
        sends = [asyncio.ensure_future(dead.notify("echo")) for _ in range(CROWD)]
        payload = bytes(2 << 20)
        assert await asyncio.wait_for(zoo.echo(payload), PATIENCE) == payload

        pid = busy.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        calls[0].cancel()
        await asyncio.wait_for(host.close(timeout=0), PATIENCE)
        outcomes = await asyncio.gather(*calls, *waits, *sends, return_exceptions=True)
        assert {type(one) for one in outcomes[:CROWD]} == {asyncio.CancelledError}
        assert {type(one) for one in outcomes[CROWD:]} == {shmhub.HubClosedError}

    try:
        run(body)
    finally:
        gate.close()


def test_call_all_has_one_deadline_and_gives_the_first_error() -> None:
    async def body(host: shmhub.aio.PluginHost) -> None:
        zoo = await host.spawn(ZOO, replicas=2)
        with pytest.raises(ValueError, match="no"):
            await zoo.call_all("fail", "no")
        with pytest.raises(shmhub.HubTimeoutError):
            await zoo.call_all("echo", timeout=0)
        with pytest.raises(TypeError, match="generator"):
            await zoo.call_all("total", (number for number in range(3)))

    run(body)


def test_leaving_with_an_error_leaves_no_process(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    pids: list[int] = []

    async def body(host: shmhub.aio.PluginHost) -> None:
        zoo = await host.spawn(ZOO, replicas=2)
        pids.extend(one.pid for one in zoo.replicas if one.pid is not None)
        zoo.submit("gate", gate.paths)
        await asyncio.sleep(0)
        raise LookupError

    try:
        with pytest.raises(LookupError):
            run(body, stop_timeout=BRIEF)
    finally:
        gate.close()
    assert len(pids) == 2
    wait_ended(*pids)


def test_a_closed_host_says_so() -> None:
    async def body(host: shmhub.aio.PluginHost) -> None:
        zoo = await host.spawn(ZOO)
        await host.close()
        await host.close()
        await zoo.stop()
        zoo.kill()
        large = bytes(2 << 20)
        for refused in (
            host.spawn(ZOO),
            zoo.call("echo", 1),
            zoo.call("echo", large),
            zoo.echo(large),
            zoo.call_all("echo", large),
            zoo.notify("echo", large),
            zoo.wait_ready(),
            zoo.restart(),
            anext(zoo.stream("count", 3)),
            anext(zoo.stream("count", large)),
        ):
            with pytest.raises(shmhub.HubClosedError):
                await refused

    run(body)


def test_a_spawn_that_fails_or_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    silent = write_plugin(tmp_path, "import time\ntime.sleep(600)\n", "silent")

    async def body(host: shmhub.aio.PluginHost) -> None:
        with pytest.raises(shmhub.PluginStartError):
            await host.spawn(str(tmp_path / "missing.py"))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(host.spawn(silent, start_timeout=3), BRIEF)

    run(body)


def test_another_loop_is_refused() -> None:
    async def main() -> shmhub.aio.PluginHost:
        host = shmhub.aio.PluginHost()
        await host.close()
        return host

    async def other(host: shmhub.aio.PluginHost) -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.wait_for(host.spawn(ZOO), PATIENCE)

    host = asyncio.run(main())
    asyncio.run(other(host))
