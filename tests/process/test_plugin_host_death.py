"""Plugins end with their host, whatever ends it and whatever they are doing, and not before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmhub
from tests.support.environment import PATIENCE, ROOT
from tests.support.gate import Gate
from tests.support.plugins import ZOO, events, has_ended, host, run_program, wait_ended
from tests.support.waiting import until

__all__ = ["events", "host"]  # fixtures

pytestmark = pytest.mark.time_limit(180)

HOST = f"""
import sys
sys.path.append({str(ROOT)!r})
import shmhub
host = shmhub.PluginHost(echo=False)
targets = {{"file": {ZOO!r}, "program": [sys.executable, {ZOO!r}],
           "wrapper": ["sh", "-c", '"$@"; true', "sh", sys.executable, {ZOO!r}]}}
zoo = host.spawn(targets[sys.argv[1]], replicas=2)
method, arguments = sys.argv[2], sys.argv[3:]
for _ in range(2):
    if method != "nothing":
        zoo.submit(method, *([arguments] if arguments else []))
print(*zoo.call_all("process") if method == "nothing" else [one.pid for one in zoo.replicas])
sys.stdout.flush()
sys.stdin.read()
{{end}}
"""


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.close()


class Started:
    """A host in a process of its own, with two replicas that are busy with `method`."""

    def __init__(self, target: str, method: str, *arguments: str, end: str = "") -> None:
        code = HOST.replace("{end}", textwrap.dedent(end))
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, target, method, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.pids = [
            int(one) for one in line.replace("[", "").replace("]", "").replace(",", "").split()
        ]
        assert len(self.pids) == 2, line

    def finish(self) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        status = self.process.wait(PATIENCE)
        self.process.stdout.close()
        return status

    def kill(self) -> None:
        self.process.kill()
        self.finish()


@pytest.mark.parametrize("target", ["file", "program", "wrapper"])
def test_idle_plugins_end_with_a_killed_host(target: str) -> None:
    started = Started(target, "nothing")
    started.kill()
    wait_ended(*started.pids)


@pytest.mark.parametrize("target", ["file", "program", "wrapper"])
def test_plugins_in_a_call_end_with_a_killed_host(target: str, gate: Gate) -> None:
    started = Started(target, "gate", *gate.paths)
    gate.wait_entered(2)
    started.kill()
    wait_ended(*started.pids)


def test_plugins_in_a_c_call_that_holds_the_gil_end_with_a_killed_host(gate: Gate) -> None:
    started = Started("file", "hold_the_gil", *gate.paths)
    gate.wait_entered(2)
    started.kill()
    wait_ended(*started.pids)


def test_shutdown_hooks_run_when_the_host_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    monkeypatch.setenv("ZOO_NOTES", str(notes))
    started = Started("file", "nothing")
    started.kill()
    wait_ended(*started.pids)
    assert sorted(notes.read_text().split()) == ["shutdown"] * 2 + ["startup"] * 2


ENDS = {
    "without stop": "",
    "by an exception": "raise RuntimeError",
    "by os._exit": "import os; os._exit(0)",
    "by abort": "import os; os.abort()",
    "by exec": "import os; os.execvp('true', ['true'])",
    "in a thread": "import threading, os; threading.Thread(target=os._exit, args=(0,)).start()",
}


@pytest.mark.parametrize("how", ENDS)
def test_a_host_that_ends_without_stop_takes_its_plugins_along(how: str) -> None:
    started = Started("file", "nothing", end=ENDS[how])
    started.finish()
    wait_ended(*started.pids)


def test_ctrl_c_in_the_terminal_is_the_hosts_alone() -> None:
    """The whole foreground process group gets SIGINT, as from a terminal."""
    done = run_program(
        f"""
        import os, signal, shmhub
        os.setpgid(0, 0)
        with shmhub.PluginHost(echo=False) as host:
            zoo = host.spawn({ZOO!r})
            before = zoo.process()
            try:
                os.killpg(0, signal.SIGINT)
                import time; time.sleep(60)
            except KeyboardInterrupt:
                print(zoo.process() == before, zoo.replicas[0].restarts)
        """
    )
    assert done.stdout.split() == ["True", "0"], done.stderr


def test_plugins_survive_the_thread_that_spawned_them(host: shmhub.PluginHost) -> None:
    made: list[shmhub.PluginHandle] = []
    thread = threading.Thread(target=lambda: made.append(host.spawn(ZOO, replicas=2)))
    thread.start()
    thread.join()
    # Gone for the kernel, too, which is who would send the signal.
    until(lambda: not os.path.exists(f"/proc/self/task/{thread.native_id}"), "the thread's end")
    before = made[0].call_all("process")
    assert made[0].call_all("process") == before
    assert not any(has_ended(one) for one in before)
    assert [one.restarts for one in made[0].replicas] == [0, 0]


def test_a_plugin_may_have_plugins_and_they_end_with_it(host: shmhub.PluginHost) -> None:
    outer = host.spawn(str(Path(ZOO).with_name("nesting_plugin.py")))
    inner = outer.inner_process()
    assert outer.through(7) == 7
    os.kill(outer.pid or 0, signal.SIGKILL)
    wait_ended(inner)
    outer.wait_ready(PATIENCE)
    second = outer.inner_process()
    assert second != inner
    outer.stop()
    wait_ended(second)


def test_two_hosts_in_one_process(host: shmhub.PluginHost) -> None:
    with shmhub.PluginHost(echo=False) as other:
        one, two = host.spawn(ZOO), other.spawn(ZOO)
        two.remember("x")
        assert (one.remembered(), two.remembered()) == ([], ["x"])
        assert one.process() != two.process()
    assert one.echo(1) == 1
    with pytest.raises(shmhub.HubClosedError):
        two.echo(1)


def test_a_forked_child_is_told_and_leaves_the_parents_alone() -> None:
    done = run_program(
        f"""
        import os, shmhub
        with shmhub.PluginHost(echo=False) as host:
            zoo = host.spawn({ZOO!r})
            pid = os.fork()
            if pid == 0:
                for use in (lambda: zoo.echo(1), lambda: zoo.submit("echo", 1), zoo.wait_ready,
                            lambda: host.spawn({ZOO!r}), lambda: zoo.notify("echo"), zoo.stop,
                            zoo.restart, zoo.kill):
                    try:
                        use()
                        print("no error")
                    except Exception as error:
                        print(type(error).__name__)
                with shmhub.PluginHost(echo=False) as own:
                    print(own.spawn({ZOO!r}).echo("own"))
                host.close()
                del host, zoo
                import sys; sys.stdout.flush()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            print(zoo.echo("parent"), zoo.replicas[0].restarts)
        """
    )
    assert done.stdout.split() == ["HubForkedError"] * 8 + ["own", "parent", "0"], done


def test_in_a_forked_child_calls_of_the_parent_are_over(gate: Gate) -> None:
    done = run_program(
        f"""
        import concurrent.futures, os, signal, sys, threading, shmhub
        called = []
        held, forked = threading.Event(), threading.Event()
        def hold(future):
            with future._guard:
                held.set()
                forked.wait()
        with shmhub.PluginHost(echo=False) as host:
            zoo = host.spawn({ZOO!r})
            running, cancelled = (zoo.submit("gate", sys.argv[1:]) for _ in range(2))
            waiting = [zoo.submit("echo", number) for number in range(3)]
            cancelled.cancel()
            waiting[0].add_done_callback(called.append)
            # As if another thread of the parent's were just giving it its outcome.
            holding = threading.Thread(target=hold, args=[running])
            holding.start()
            held.wait()
            pid = os.fork()
            if pid == 0:
                signal.alarm({int(PATIENCE)})  # rather than wait for ever
                concurrent.futures.wait([running, *waiting])
                for one in (running, *waiting, cancelled):
                    try:
                        one.result()
                    except BaseException as error:
                        print(type(error).__name__)
                    assert not one.cancel() or one is cancelled
                try:
                    host.kill_all()
                except shmhub.HubForkedError as error:
                    print(str(error).partition(":")[0])
                print(*called)
                sys.stdout.flush()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            forked.set()
            holding.join()
            for _ in range(2):
                os.write(os.open(sys.argv[2], os.O_RDWR), b".")
            print([one.result() for one in (running, *waiting)])
        """,
        *gate.paths,
    )
    expected = [*["HubForkedError"] * 4, "CancelledError", "kill_all", "", "[None, 0, 1, 2]"]
    assert done.stdout.splitlines() == expected, done
