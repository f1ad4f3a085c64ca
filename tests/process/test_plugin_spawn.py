"""All that `spawn` can start, what the new process inherits, and what is wrong with the rest."""

from __future__ import annotations

import os
import platform
import signal
import sys
from pathlib import Path
from typing import Protocol

import pytest

import shmhub
from tests.support.environment import PATIENCE, ROOT
from tests.support.plugins import ZOO, Events, events, host, write_plugin

__all__ = ["events", "host"]  # fixtures

pytestmark = pytest.mark.time_limit(120)


def test_a_file_needs_no_main_block_and_works_with_one(
    host: shmhub.PluginHost, tmp_path: Path
) -> None:
    body = """
        import shmhub
        plugin = shmhub.Plugin("small")
        @plugin.method
        def double(number): return number * 2
    """
    plain = host.spawn(write_plugin(tmp_path, body, "plain"))
    assert plain.double(21) == 42
    guarded = body + "\n        if __name__ == '__main__':\n            plugin.run()\n"
    assert host.spawn(write_plugin(tmp_path, guarded, "guarded")).double(4) == 8
    unguarded = body + "\n        plugin.run()\n"
    assert host.spawn(write_plugin(tmp_path, unguarded, "unguarded")).double(5) == 10
    assert plain.name == "plain"


def test_a_module_an_entry_point_and_a_program(
    host: shmhub.PluginHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.spawn("tests.support.programs.zoo:plugin", name="module").echo(1) == 1
    program = host.spawn([sys.executable, ZOO], name="program")
    assert program.echo(2) == 2

    info = tmp_path / "some-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: some\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[shmhub.plugins]\nzoo-point = tests.support.programs.zoo:plugin\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    named = host.spawn("zoo-point")
    assert (named.name, named.echo(3)) == ("zoo-point", 3)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    other = host.spawn("zoo-point", python=sys.executable, env=environment, name="other")
    assert other.echo(4) == 4


def test_classes_of_a_file_are_known_by_its_name(host: shmhub.PluginHost) -> None:
    sys.path.append(os.path.dirname(ZOO))
    try:
        animal = host.spawn(ZOO).animal("dog")
    finally:
        sys.path.remove(os.path.dirname(ZOO))
    assert (type(animal).__module__, animal.name) == ("zoo", "dog")


def test_the_process_inherits_interpreter_path_and_flags(
    host: shmhub.PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "warnoptions", [*sys.warnoptions, "ignore::UserWarning"])
    monkeypatch.syspath_prepend("/somewhere/else")
    found = host.spawn(ZOO, args=["--fast", "x y"]).environment()
    assert (found["executable"], found["prefix"]) == (sys.executable, sys.prefix)
    assert "/somewhere/else" in found["path"]
    assert "ignore::UserWarning" in found["warnings"]
    assert found["argv"][:3] == [ZOO, "--fast", "x y"]
    assert "SHMHUB_PLUGIN_OPTIONS" not in found["environ"]
    assert found["pgid"] != os.getpgid(0)
    # The three standard streams, the hub's, and nothing that the host happens to have open.
    assert len(found["fds"]) < 16


def test_limits_folder_and_environment(host: shmhub.PluginHost, tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    options = {
        "cwd": tmp_path,
        "env": {**os.environ, "ZOO_COLOUR": "green"},
        "rlimits": {"nofile": (100, 200)},
        "nice": 7,
        "cpus": [cpu],
    }
    for target in (ZOO, [sys.executable, ZOO]):
        found = host.spawn(target, **options).environment()  # type: ignore[arg-type]
        assert found["cwd"] == str(tmp_path)
        assert found["environ"]["ZOO_COLOUR"] == "green"
        assert tuple(found["nofile"]) == (100, 200)
        assert (found["nice"], found["cpus"]) == (7, [cpu])


def test_another_interpreter(host: shmhub.PluginHost) -> None:
    assert host.spawn(ZOO, python=sys.executable).environment()["executable"] == sys.executable


def test_threads_and_name_come_from_the_host(host: shmhub.PluginHost, tmp_path: Path) -> None:
    path = write_plugin(
        tmp_path,
        """
        import shmhub
        plugin = shmhub.Plugin("own name", threads=3)
        @plugin.method
        def about(): return plugin.name, plugin.threads
        """,
    )
    assert tuple(host.spawn(path).about()) == ("written", 3)
    assert tuple(host.spawn(path, name="given", threads=2).about()) == ("given", 2)


class Echo(Protocol):
    def echo(self, value: object = None) -> object: ...


class Roar(Protocol):
    def roar(self) -> None: ...
    def echo(self, other: object) -> object: ...


def test_an_interface_is_compared_in_the_handshake(host: shmhub.PluginHost) -> None:
    assert host.spawn(ZOO, interface=Echo).echo(5) == 5  # type: ignore[type-abstract]
    with pytest.raises(shmhub.InterfaceError) as failure:
        host.spawn(ZOO, interface=Roar)  # type: ignore[type-abstract]
    assert "roar: the plugin has no such method" in str(failure.value)
    assert "'other' is 'value' there" in str(failure.value)


# What is wrong with the rest

BAD = {
    "raises at import": (
        "raise RuntimeError('this is broken')",
        ["exit status 1", "RuntimeError: this is broken"],
    ),
    "does not import": (
        "import no_such_module_at_all",
        ["No module named 'no_such_module_at_all'"],
    ),
    "is no Python": ("this is no Python", ["is not a Python program", "invalid syntax"]),
    "is not a plugin": ("x = 1", ["is not a plugin: it has no shmhub.Plugin at its top level"]),
    "two plugins": (
        "import shmhub; a = shmhub.Plugin('a'); b = shmhub.Plugin('b')",
        ["has 2 plugins at its top level"],
    ),
    "ends": ("import os; os._exit(0)", ["exit status 0", "plugin.run()"]),
    "ends badly": ("import os; os._exit(77)", ["exit status 77", "nothing to its standard error"]),
    "is killed": ("import os; os.kill(os.getpid(), 11)", ["SIGSEGV", "Current thread"]),
    "bad startup": (
        "import shmhub; plugin = shmhub.Plugin('a')\n"
        "@plugin.on_startup\ndef f(): raise OSError('no camera')",
        ["OSError: no camera"],
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_does_not_come_up_says_why(
    host: shmhub.PluginHost, events: Events, tmp_path: Path, kind: str
) -> None:
    body, expected = BAD[kind]
    with pytest.raises(shmhub.PluginStartError) as failure:
        host.spawn(write_plugin(tmp_path, body), replicas=2 if kind == "ends" else 1)
    for text in expected:
        assert text in str(failure.value)
    tail = failure.value.stderr_tail
    assert tail == "" or tail.splitlines()[-1] in str(failure.value)
    assert events.wait("failed").reason == str(failure.value)
    # The host is none the worse for it.
    assert host.spawn(ZOO).echo(1) == 1


PROGRAMS = {
    "ends at once": ("exit 5", ["exit status 5"]),
    "prints garbage": ("head -c 300000 /dev/urandom; exit 6", ["exit status 6"]),
    "writes to every descriptor": (
        "for f in /proc/$$/fd/*; do head -c 100000 /dev/urandom >&${f##*/} ; done 2>/dev/null; "
        "exit 7",
        ["exit status 7"],
    ),
    "says what is wrong": ("echo oh no >&2; exit 8", ["exit status 8", "    oh no"]),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_that_is_no_plugin(host: shmhub.PluginHost, kind: str) -> None:
    script, expected = PROGRAMS[kind]
    with pytest.raises(shmhub.PluginStartError) as failure:
        host.spawn(["bash", "-c", script, "bash"], name="bad")
    for text in expected:
        assert text in str(failure.value)
    assert host.spawn(ZOO).echo(1) == 1


def test_one_that_never_answers_is_killed(host: shmhub.PluginHost, tmp_path: Path) -> None:
    with pytest.raises(shmhub.PluginStartError, match=r"did not say hello within 0\.2 s"):
        host.spawn(["bash", "-c", "exec sleep 3600", "bash"], start_timeout=0.2)
    body = "import sys, time; print('thinking', file=sys.stderr); time.sleep(3600)"
    with pytest.raises(shmhub.PluginStartError, match="hello within 2 s"):
        host.spawn(write_plugin(tmp_path, body), start_timeout=2)


def test_targets_that_do_not_exist(host: shmhub.PluginHost) -> None:
    for target in ("./missing.py", ["no-such-program"], "no_such_module:plugin", "no-such-point"):
        with pytest.raises(shmhub.PluginStartError):
            host.spawn(target)
    with pytest.raises(shmhub.PluginStartError, match="nothing named 'cage'"):
        host.spawn("tests.support.programs.zoo:cage")
    with pytest.raises(shmhub.PluginStartError, match=r"is not a plugin .*, but a builtins\."):
        host.spawn("tests.support.programs.zoo:echo")
    with pytest.raises(shmhub.PluginStartError, match="no-such-folder"):
        host.spawn(ZOO, cwd="/no-such-folder")


def test_an_interpreter_that_is_too_old_or_has_no_shmhub(
    host: shmhub.PluginHost, tmp_path: Path
) -> None:
    isolated = tmp_path / "python"
    isolated.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    isolated.chmod(0o755)
    with pytest.raises(shmhub.PluginStartError, match="shmhub is not installed for it"):
        host.spawn(ZOO, python=isolated)
    old = tmp_path / "old-python"
    old.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys, runpy\n"
        "sys.version_info = (3, 8, 2)\nsys.argv = sys.argv[1:]\n"
        'runpy.run_path(sys.argv[0], run_name="__main__")\' "$@"\n'
    )
    old.chmod(0o755)
    with pytest.raises(shmhub.PluginStartError, match=r"needs 3\.11 or later"):
        host.spawn(ZOO, python=old)


def test_wrong_arguments(host: shmhub.PluginHost) -> None:
    for name, value in (
        ("replicas", 0),
        ("replicas", 1.5),
        ("threads", 0),
        ("max_attempts", 0),
        ("max_pending", -1),
        ("call_timeout", -1),
        ("watchdog", 0),
        ("start_timeout", float("nan")),
        ("name", ""),
        ("nice", 40),
        ("codec", "json"),
        ("interface", 5),
        ("args", "--fast"),
    ):
        with pytest.raises((ValueError, TypeError), match=name):
            host.spawn(ZOO, **{name: value})  # type: ignore[call-overload]


def test_too_many_replicas_for_the_hub(leak_check: None) -> None:
    config = shmhub.HubConfig(max_peers=3)
    with shmhub.PluginHost(config, echo=False) as host:
        with pytest.raises(shmhub.PeerLimitError):
            host.spawn(ZOO, replicas=3)
        assert len(host.spawn(ZOO, replicas=2).call_all("process")) == 2


def test_ctrl_c_during_spawn_leaves_nothing(host: shmhub.PluginHost, tmp_path: Path) -> None:
    import threading

    note = tmp_path / "begun"
    os.mkfifo(note)

    def interrupt() -> None:
        with open(note):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    body = f"import time\nopen({str(note)!r}, 'w').close()\ntime.sleep(3600)"
    with pytest.raises(KeyboardInterrupt):
        host.spawn(write_plugin(tmp_path, body), start_timeout=PATIENCE)
    thread.join()
    assert host.spawn(ZOO).echo(1) == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told")
@pytest.mark.parametrize("told", [False, True], ids=["usual", "told by the user"])
def test_what_a_call_frees_is_there_for_the_next(
    host: shmhub.PluginHost, tmp_path: Path, told: bool
) -> None:
    body = """
        import resource
        import shmhub

        plugin = shmhub.Plugin("hungry")

        @plugin.method
        def faults():
            "Pages that this call had from the kernel."
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            several = [bytearray(9 << 20) for _ in range(3)]
            for one in several:
                one[::4096] = bytes(len(one[::4096]))
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        if __name__ == "__main__":
            plugin.run()
    """
    env = {"MALLOC_TRIM_THRESHOLD_": "131072"} if told else None
    hungry = host.spawn(write_plugin(tmp_path, body, "hungry"), env=env)
    hungry.faults()
    pages = 3 * (9 << 20) // os.sysconf("SC_PAGESIZE")
    again = min(hungry.faults() for _ in range(3))
    assert again > pages // 2 if told else again < pages // 10
