"""shmhub.testing's faults: exactly at that message, stopped for as long as it says, all slots."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import shmhub
from shmhub.testing import Faults, exhausted, stopped, wait_for_slots
from tests.support.environment import PATIENCE
from tests.support.plugins import ZOO, Events, events, host, write_plugin
from tests.support.waiting import until

__all__ = ["events", "host"]  # fixtures

pytestmark = pytest.mark.time_limit(120)


@pytest.fixture
def faults(host: shmhub.PluginHost) -> Iterator[Faults]:
    with Faults() as made:
        yield made


def outcome(future: Future[Any]) -> Any:
    """The answer, or the outcome of a call whose plugin has died."""
    try:
        return future.result(PATIENCE)
    except shmhub.PluginDiedError as error:
        return error.outcome


# Of six calls sent at once; `remember` counts those that have run in its process.
EXACTLY = {
    "received": [1, 2, "may_have_run", 1, 2, 3],
    "sending": [1, 2, "may_have_run", 1, 2, 3],
    "sent": [1, 2, 3, 1, 2, 3],
}


@pytest.mark.parametrize("on", EXACTLY)
def test_a_plugin_dies_at_its_third_message(
    host: shmhub.PluginHost, events: Events, faults: Faults, on: Any, tmp_path: Path
) -> None:
    zoo = faults.spawn(host, ZOO)
    faults.kill_at(3, on=on)
    assert [outcome(one) for one in [zoo.submit("remember", n) for n in range(6)]] == EXACTLY[on]
    assert events.wait("died").signal == 9
    assert not faults.disarm()
    assert zoo.remembered() == [3, 4, 5]  # and no more deaths


def test_what_was_received_has_not_begun(
    host: shmhub.PluginHost, faults: Faults, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    path = write_plugin(
        tmp_path,
        """
        import shmhub
        plugin = shmhub.Plugin("noting")
        @plugin.method
        def note(path):
            with open(path, "a") as file:
                file.write("x")
        """,
    )
    noting = faults.spawn(host, path)
    for on, written in (("received", ""), ("sending", "x"), ("sent", "xx")):
        faults.kill_at(1, on=on)  # type: ignore[arg-type]
        outcome(noting.submit("note", str(note)))
        assert (note.read_text() if note.exists() else "") == written
        noting.wait_ready(PATIENCE)


def test_items_of_a_stream_are_messages(host: shmhub.PluginHost, faults: Faults) -> None:
    zoo = faults.spawn(host, ZOO)
    zoo.echo(1)
    faults.kill_at(4, on="sent")
    numbers = []
    with pytest.raises(shmhub.PluginDiedError):
        numbers.extend(zoo.count(100))
    assert numbers == [0, 1, 2, 3]


def test_all_lives_and_replicas_count_together(
    host: shmhub.PluginHost, events: Events, faults: Faults
) -> None:
    zoo = faults.spawn(host, ZOO, replicas=2, max_attempts=5)
    faults.kill_at(10)
    assert [zoo.echo(number) for number in range(9)] == list(range(9))
    assert "died" not in events.kinds
    assert zoo.echo(9) == 9  # idempotent: it is sent again
    assert events.kinds.count("died") == 1
    faults.kill_at(2)
    faults.kill_at(1)  # replaces it
    assert zoo.echo(1) == 1
    events.wait("died", 2)
    faults.kill_at(1)
    assert faults.disarm()
    assert zoo.echo(1) == 1
    assert events.kinds.count("died") == 2


@pytest.mark.parametrize("way", ["module", "unguarded", "arguments"])
def test_all_that_is_a_python_plugin_can_be_reached(
    host: shmhub.PluginHost, faults: Faults, tmp_path: Path, way: str
) -> None:
    body = """
        import os, sys
        import shmhub
        plugin = shmhub.Plugin("small")
        @plugin.method
        def about(): return __name__, sys.argv[1], os.environ.get("COLOUR"), sorted(os.environ)
    """
    if way == "unguarded":
        body += "\n        plugin.run()\n"
    if way == "module":
        target = "tests.support.programs.zoo:plugin"
        assert faults.spawn(host, target, name="module").echo(1) == 1
        return
    target = write_plugin(tmp_path, body, "small")
    env = {**os.environ, "COLOUR": "green"}
    small = faults.spawn(host, target, args=["--fast"], env=env)
    assert small.name == "small"
    *about, environ = small.about()
    assert about == ["small", "--fast", "green"]
    assert "SHMHUB_TESTING" not in environ
    faults.kill_at(1)
    assert outcome(small.submit("about")) == "may_have_run"
    small.stop()


def test_what_cannot_be_reached_or_armed_is_refused(
    host: shmhub.PluginHost, faults: Faults, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match="a program of its own can be killed by its pid"):
        faults.spawn(host, ["./plugin"])
    with pytest.raises(shmhub.PluginStartError, match="is not a plugin"):
        faults.spawn(host, write_plugin(tmp_path, "x = 1"))
    with pytest.raises(ValueError, match="received, sending, sent, not 'later'"):
        faults.kill_at(1, on="later")  # type: ignore[arg-type]
    for wrong in (0, -1, True, 10**6):
        with pytest.raises(ValueError, match="message must be 1 to"):
            faults.kill_at(wrong)


def test_plugins_outlive_the_faults(host: shmhub.PluginHost) -> None:
    with Faults() as faults:
        zoo = faults.spawn(host, ZOO)
        faults.kill_at(1)
    assert zoo.echo(1) == 1
    with pytest.raises(shmhub.PluginDiedError):
        zoo.die()
    assert zoo.echo(2) == 2


def test_a_stopped_plugin_answers_when_it_goes_on(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO, replicas=2)
    pids = [one.pid for one in zoo.replicas]
    with stopped(zoo):
        for pid in pids:
            tasks = os.listdir(f"/proc/{pid}/task")
            assert tasks
            for task in tasks:
                text = Path(f"/proc/{pid}/task/{task}/stat").read_text()
                assert text.rpartition(")")[2].split()[0] == "T"
        futures = [zoo.submit("process") for _ in pids]
        with pytest.raises(shmhub.HubTimeoutError):
            zoo.call("process", timeout=0.05)
        assert not any(one.done() for one in futures)
    assert {one.result(PATIENCE) for one in futures} <= set(pids)
    assert [one.pid for one in zoo.replicas] == pids


def test_one_that_is_killed_while_it_is_stopped_stays_dead(
    host: shmhub.PluginHost, events: Events
) -> None:
    zoo = host.spawn(ZOO)
    assert zoo.pid is not None
    with stopped(zoo.pid):
        os.kill(zoo.pid, 9)
        events.wait("ready", 2)
        assert zoo.echo(1) == 1  # what replaces it was never stopped
    zoo.stop()
    with pytest.raises(ProcessLookupError, match="has no process just now"), stopped(zoo):
        pass
    with pytest.raises(TypeError, match="'zoo'"), stopped("zoo"):
        pass


CONFIG = shmhub.HubConfig(
    size_classes=(shmhub.SizeClass(1024, 4, 4), shmhub.SizeClass(8192, 2, 3)), max_peers=4
)


def test_an_exhausted_plugin_host_has_no_slot_left(leak_check: None) -> None:
    with shmhub.PluginHost(CONFIG, echo=False) as host:
        zoo = host.spawn(ZOO)
        wait_for_slots(host)  # of the handshake
        with exhausted(host) as hoard:
            assert len(hoard) == 4 + 3
            assert sum(one.free for one in host.statistics().size_classes) == 0
            assert zoo.echo(bytes(5000)) == bytes(5000)  # in parts, without a slot
        wait_for_slots(host)
        with exhausted(host, 1024) as hoard:
            assert len(hoard) == 4
            assert host.statistics().size_classes[0].free == 0
            with exhausted(host) as rest:
                assert len(rest) == 3
                hoard.give_back(1)
                assert rest.take() == 1
            assert len(hoard) == 3
        wait_for_slots(host)
        with pytest.raises(ValueError, match=r"slot_size=512: .*\[1024, 8192\]"):
            exhausted(host, 512).__enter__()


def test_exhausting_a_hub_whose_host_has_one_transport_for_all(leak_check: None) -> None:
    with (
        shmhub.HubHost.create(config=CONFIG) as hub,
        shmhub.HubHostTransport(hub) as transport,
    ):
        with pytest.raises(shmhub.PeerStateError, match="pass it as transport="):
            exhausted(hub).__enter__()
        with exhausted(hub, transport=transport) as hoard:
            assert len(hoard) == 7
        transport.alloc_nowait(8192).release()


def test_an_exhausted_hub_gives_all_back(leak_check: None) -> None:
    with shmhub.HubHost.create(config=CONFIG) as hub:
        info = hub.add_peer()
        with shmhub.HubHostPeerTransport(hub, info.peer_id, info.doorbell) as transport:
            with exhausted(hub) as hoard:
                assert len(hoard) == 7
                with pytest.raises(shmhub.SlotsExhaustedError):
                    transport.alloc_nowait(1)
                hoard.give_back(1)
                transport.alloc_nowait(1).release()
            transport.alloc_nowait(8192).release()
        # Its place is given back as well.
        until(lambda: [one.name for one in hub.peers] in ([], [info.name]), "its place", patience=5)
        for _ in range(10):
            with exhausted(hub):
                pass
