"""shmhub.testing without pytest's fixtures: what is left is found, and named."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import shmhub
from shmhub.testing import LeakError, assert_no_leaks, slots_in_use, wait_for_slots
from tests.support.environment import BRIEF, PATIENCE
from tests.support.plugins import ZOO, events, host
from tests.support.waiting import until

__all__ = ["events", "host"]  # fixtures

pytestmark = pytest.mark.time_limit(120)

CONFIG = shmhub.HubConfig(
    size_classes=(shmhub.SizeClass(1024, 4), shmhub.SizeClass(8192, 2)), max_peers=4
)


def test_each_slot_is_named_with_its_state_and_owner(leak_check: None) -> None:
    with shmhub.HubHost.create(config=CONFIG) as hub:
        info = hub.add_peer("reader")
        peer_end = os.dup(info.peer_doorbell_fd)
        with shmhub.HubHostPeerTransport(hub, info.peer_id, info.doorbell) as transport:
            peer = shmhub.HubPeer.open(f"/proc/self/fd/{hub.fileno()}", info.peer_id)
            peer.register()
            with (
                peer,
                shmhub.HubPeerTransport(
                    peer, shmhub.Doorbell.from_raw_fd(peer_end), "reader"
                ) as reader,
            ):
                assert slots_in_use(hub) == []
                mine = transport.alloc_nowait(5000)
                theirs = reader.alloc_nowait(100)
                transport.send(bytes(1000))
                reader.send(bytes(300))
                found = {(one.state, one.owner): one for one in slots_in_use(hub)}
                named = f"peer {info.peer_id} 'reader' (pid {os.getpid()})"
                assert set(found) == {
                    ("owned", "the host"),
                    ("owned", named),
                    ("in_ring", f"from the host to {named}"),
                    ("in_ring", f"from {named} to the host"),
                }
                one = found["owned", "the host"]
                assert (one.size_class, one.slot_size) == (1, 8192)
                assert str(one) == f"slot 1:{one.slot} of 8192 bytes: owned by the host"
                # It counts what the hub counts.
                classes = hub.statistics().size_classes
                assert sum(c.owned for c in classes) == 2
                assert sum(c.in_ring for c in classes) == 2
                with pytest.raises(LeakError) as failure:
                    wait_for_slots(hub, patience=0)
                assert sorted(failure.value.leaks) == sorted(map(str, found.values()))
                for slot in (mine, theirs, transport.recv(PATIENCE), reader.recv(PATIENCE)):
                    slot.release()
                wait_for_slots(hub)


def test_a_slot_that_was_used_before_the_body_does_not_count(leak_check: None) -> None:
    with shmhub.HubHost.create(config=CONFIG) as hub:
        info = hub.add_peer()
        with shmhub.HubHostPeerTransport(hub, info.peer_id, info.doorbell) as transport:
            before = transport.alloc_nowait(100)
            with assert_no_leaks(hub, patience=0):
                transport.alloc_nowait(100).release()
            with (
                pytest.raises(LeakError, match=r"slot 0:.*owned by the host"),
                assert_no_leaks(hub, patience=0),
            ):
                # The same place, in another use.
                before.release()
                again = transport.alloc_nowait(100)
            again.release()


def test_a_view_that_a_plugin_keeps_is_the_plugins(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO)
    payload = bytes(20_000)
    zoo.echo(payload)
    with assert_no_leaks(host):
        zoo.echo(payload)
    with (
        pytest.raises(LeakError, match=rf"owned by peer \d+ 'zoo' \(pid {zoo.pid}\)"),
        assert_no_leaks(host, patience=BRIEF),
    ):
        zoo.remember(memoryview(payload))
    with pytest.raises(LeakError, match="owned by the host"), assert_no_leaks(host, patience=BRIEF):
        view = zoo.options(view=True).echo(payload)
    del view


def test_processes_and_descriptors_are_named() -> None:
    sleeper: Any = None
    ends: tuple[int, int] = (-1, -1)
    with pytest.raises(LeakError) as failure, assert_no_leaks(patience=BRIEF):
        sleeper = subprocess.Popen(["sleep", "3600"])
        command = Path(f"/proc/{sleeper.pid}/cmdline")
        until(lambda: command.read_bytes().startswith(b"sleep"), "it to begin")
        ends = os.pipe()
    text = str(failure.value)
    assert f"process {sleeper.pid}: sleep 3600" in text
    for end in ends:
        assert f"descriptor {end} -> pipe:" in text
        os.close(end)
    # Ended is not enough: nobody has waited for it.
    with pytest.raises(LeakError, match="nobody has waited for it"), assert_no_leaks(patience=0.5):
        brief = subprocess.Popen(["true"])
        os.waitid(os.P_PID, brief.pid, os.WEXITED | os.WNOWAIT)
    brief.wait()
    sleeper.kill()
    sleeper.wait()


def test_a_view_of_a_closed_hub_is_a_mapping() -> None:
    with (
        pytest.raises(LeakError) as failure,
        assert_no_leaks(patience=BRIEF),
        shmhub.PluginHost(echo=False) as host,
    ):
        view = host.spawn(ZOO).options(view=True).echo(bytes(10_000))
    assert "mapping of" in str(failure.value)
    assert bytes(view) == bytes(10_000)
    del view


def test_what_the_body_raises_comes_out() -> None:
    with pytest.raises(ZeroDivisionError), assert_no_leaks(patience=0):
        end = os.dup(0)
        raise ZeroDivisionError
    os.close(end)


def test_nothing_is_left_of_a_plugin_host() -> None:
    with assert_no_leaks(), shmhub.PluginHost(echo=False) as host:
        host.spawn(ZOO, replicas=2).echo(bytes(100_000))


def test_what_has_no_hub_is_refused() -> None:
    with pytest.raises(TypeError, match="HubHost or PluginHost is needed, not 5"):
        wait_for_slots(5)  # type: ignore[arg-type]


def test_the_error_pickles() -> None:
    again = pickle.loads(pickle.dumps(LeakError(["this", "that"])))
    assert (again.leaks, str(again)) == (["this", "that"], "left behind:\n  this\n  that")


def test_helpers_of_multiprocessing_are_no_leaks() -> None:
    code = (
        "import multiprocessing\n"
        "from shmhub.testing import assert_no_leaks\n"
        "if __name__ == '__main__':\n"
        "    with assert_no_leaks():\n"
        "        context = multiprocessing.get_context('spawn')\n"
        "        process = context.Process(target=print, args=('ran',), daemon=True)\n"
        "        process.start(); process.join(); process.close()\n"
        "        from multiprocessing import resource_tracker\n"
        "        resource_tracker.ensure_running()\n"
        "    print('clean')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE
    )
    assert run.stdout.split() == ["ran", "clean"], run.stderr
