"""Plugins that answer, and yet say or do what no plugin should: a clear error, nothing lost."""

from __future__ import annotations

import contextlib
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import shmhub
from shmhub.testing import wait_for_slots
from tests.support.environment import PATIENCE
from tests.support.gate import Gate
from tests.support.plugins import ZOO, Events, events, host, write_plugin

__all__ = ["events", "host"]  # fixtures

pytestmark = pytest.mark.time_limit(180)

# ---- a hello of somebody else's making ---------------------------------------------------------

FOREIGN = """
    import shmhub
    from shmhub._rpc import PeerEngine, Server
    with shmhub.HubPeerTransport.from_argv() as transport:
        PeerEngine(transport, Server(), hello={hello!r}).run()
"""
HELLOS = {
    "no kind": ({"methods": [{"name": "echo"}]}, "the kind of 'echo' is None"),
    "another kind": (
        {"methods": [{"name": "echo", "kind": "shout"}]},
        "the kind of 'echo' is 'shout', not 'call' or 'stream'",
    ),
    "no name": ({"methods": [{"kind": "call"}]}, "not a list of dicts with names"),
    "a number for a name": ({"methods": [{"name": 5, "kind": "call"}]}, "dicts with names"),
    "no dicts": ({"methods": ["echo"]}, "not a list of dicts with names"),
    "no list": ({"methods": 5}, "not a list of dicts with names"),
    "nothing": ({"methods": None}, "not a list of dicts with names"),
    "twice": ({"methods": [{"name": "a", "kind": "call"}] * 2}, "there are two methods 'a'"),
    "no threads": ({"threads": 0}, "threads is 0, not a whole number from 1"),
    "threads in words": ({"threads": "four"}, "threads is 'four'"),
    "another version": ({"rpc": 99}, "it speaks version 99 of the calls"),
    "another codec": ({"codec": "json"}, "it uses the codec 'json', this host 'pickle'"),
}


@pytest.mark.parametrize("kind", HELLOS)
def test_a_hello_that_makes_no_sense(host: shmhub.PluginHost, tmp_path: Path, kind: str) -> None:
    hello, message = HELLOS[kind]
    program = tmp_path / "foreign.py"
    program.write_text(textwrap.dedent(FOREIGN.format(hello=hello)))
    with pytest.raises(shmhub.PluginStartError) as failure:
        host.spawn([sys.executable, str(program)], name="foreign")
    assert "start plugin 'foreign'" in str(failure.value)
    assert message in str(failure.value)


def test_a_foreign_plugin_that_does_it_right_is_taken(
    host: shmhub.PluginHost, tmp_path: Path
) -> None:
    """So that what is refused above is refused for what is wrong with it."""
    program = tmp_path / "foreign.py"
    program.write_text(textwrap.dedent(FOREIGN.format(hello={})))
    foreign = host.spawn([sys.executable, str(program)], name="foreign")
    with pytest.raises(shmhub.PluginMissingMethod, match="foreign has no method 'echo'"):
        foreign.call("echo")


# ---- methods -----------------------------------------------------------------------------------


def test_a_result_of_two_gigabytes(host: shmhub.PluginHost, tmp_path: Path) -> None:
    """Pages that nobody has written to: it costs no memory, unless somebody copies it."""
    path = write_plugin(
        tmp_path,
        """
        import shmhub
        plugin = shmhub.Plugin("large")
        @plugin.method
        def zeros(size): return bytes(size)
        @plugin.method
        def chunks(size):
            yield b"first"
            yield bytes(size)
        """,
    )
    # A copy would not fit into that.
    large = host.spawn(path, rlimits={"data": 3 << 30})
    for use in (
        lambda: large.zeros(2 << 30),
        lambda: large.submit("zeros", 2 << 30).result(PATIENCE),
        lambda: list(large.chunks(2 << 30)),
    ):
        with pytest.raises(shmhub.ShmhubError, match="no slot of this hub can ever hold that"):
            use()
    assert large.zeros(5) == bytes(5)
    assert large.replicas[0].restarts == 0
    wait_for_slots(host)


def test_arguments_of_two_gigabytes(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO)
    with pytest.raises(shmhub.PayloadTooLargeError):
        zoo.echo(bytes(2 << 30))
    assert zoo.echo(1) == 1
    wait_for_slots(host)


def test_names_that_never_go_out(host: shmhub.PluginHost, tmp_path: Path) -> None:
    zoo = host.spawn(ZOO)
    for name in ("_note", "__init__", "no such name", "", "os", "plugin"):
        with pytest.raises(shmhub.PluginMissingMethod):
            zoo.call(name)
        with pytest.raises(shmhub.PluginMissingMethod):
            zoo.submit(name).result(PATIENCE)
    for name, problem in (("_hidden", "underscore"), ("restart", "caller's side")):
        body = f"import shmhub\nplugin = shmhub.Plugin('p')\n@plugin.method\ndef {name}(): pass\n"
        with pytest.raises(shmhub.PluginStartError, match=problem):
            host.spawn(write_plugin(tmp_path, body))
    assert zoo.echo(1) == 1


# ---- everything that a process can reach -------------------------------------------------------


def test_a_plugin_that_writes_to_every_descriptor_it_has(
    host: shmhub.PluginHost, events: Events, tmp_path: Path
) -> None:
    """Among them the hub, the doorbell, the host's bell. Another plugin is none the worse."""
    path = write_plugin(
        tmp_path,
        """
        import os
        import random
        import shmhub
        plugin = shmhub.Plugin("scribbler")
        @plugin.method
        def scribble(seed):
            garbage = random.Random(seed).randbytes(4096)
            for name in os.listdir("/proc/self/fd"):
                try:
                    os.set_blocking(int(name), False)
                    os.write(int(name), garbage)
                except OSError:
                    pass
            return "done"
        """,
    )
    zoo = host.spawn(ZOO)
    always = shmhub.RestartPolicy(max_restarts=None, backoff=0.01)
    scribbler = host.spawn(path, restart=always)
    for seed in range(5):
        # It may be taken for what it is, and lose its place.
        with contextlib.suppress(shmhub.PluginDiedError):
            assert scribbler.call("scribble", seed, timeout=PATIENCE) == "done"
        assert zoo.echo(bytes(5000)) == bytes(5000)
    scribbler.stop()
    assert zoo.replicas[0].restarts == 0
    assert host.hub.fsck().clean
    assert zoo.echo(bytes(300_000)) == bytes(300_000)


class _Exits:
    """What ends a program when it is pickled."""

    def __reduce__(self) -> Any:
        raise SystemExit("not to be pickled")


def test_an_argument_that_exits_when_it_is_pickled_ends_its_call_alone(
    host: shmhub.PluginHost, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    zoo = host.spawn(ZOO)
    running = zoo.submit("gate", gate.paths)
    gate.wait_entered()
    before = [zoo.submit("echo", number) for number in range(40)]  # not all are sent ahead
    bad, behind = zoo.submit("echo", _Exits()), zoo.submit("echo", 40)
    gate.let_go()
    assert [one.result(PATIENCE) for one in (running, *before)] == [None, *range(40)]
    assert isinstance(bad.exception(PATIENCE), SystemExit)
    assert behind.result(PATIENCE) == 40
    assert zoo.submit("echo", 41).result(PATIENCE) == 41
    gate.close()
