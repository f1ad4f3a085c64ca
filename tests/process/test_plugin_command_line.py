"""The earlier design's names and command line, used from programs as users write them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import shmhub
from tests.support import counts
from tests.support.environment import PATIENCE, ROOT
from tests.support.leaks import hub_in_shm
from tests.support.stage import Stage, small

_PROGRAMS = ROOT / "tests" / "support" / "programs"
ECHO = [sys.executable, str(_PROGRAMS / "echo_plugin.py")]
EARLIER = [sys.executable, str(_PROGRAMS / "earlier_plugin.py")]


@pytest.fixture(params=["anonymous", "named", "in /dev/shm"])
def hub_path(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if request.param == "anonymous":
        return None
    return hub_in_shm("plugins") if request.param == "in /dev/shm" else str(tmp_path / "hub")


def _converse(transport: Any, *, reverse: bool) -> None:
    for size in (0, 5, 16, 17, 240, 241, 1024, 100_000, 1_000_000, 5_000_000):
        payload = os.urandom(size)
        sent = transport.send(payload, channel=7, method=9)
        with transport.recv(timeout=PATIENCE) as frame:
            assert bytes(frame) == (payload[::-1] if reverse else payload)
            assert frame.message_id == sent


def test_a_plugin_started_with_popen_answers_and_ends_with_the_host(
    stage: Stage, hub_path: str | None
) -> None:
    with shmhub.HubHost.create(hub_path, small()) as host:
        info = host.add_peer("echo")
        with info.popen(ECHO) as process:
            with shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
                _converse(transport, reverse=True)
                (status,) = [p for p in host.peers if p.peer_id == info.peer_id]
                assert (status.name, status.state) == ("echo", "active")
                assert status.pid == process.pid
            assert process.wait(PATIENCE) == 0
        counts.wait_all_free(host)


def test_the_names_of_the_earlier_design_work(stage: Stage, hub_path: str | None) -> None:
    with shmhub.HubHost.create(hub_path, small()) as host:
        info = host.add_peer()
        process = subprocess.Popen([*EARLIER, *info.argv], pass_fds=info.pass_fds)
        with process:
            info.close_peer_fd()
            info.watch(process.pid)
            transport = shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell)
            _converse(transport, reverse=False)
            transport.close()
            assert process.wait(PATIENCE) == 0
        counts.wait_all_free(host)


def test_a_hand_made_popen_needs_neither_close_nor_watch(stage: Stage) -> None:
    with shmhub.HubHost.create() as host:
        info = host.add_peer()
        peer_end = info.peer_doorbell_fd
        before = os.readlink(f"/proc/self/fd/{peer_end}")
        with subprocess.Popen([*ECHO, *info.argv], pass_fds=info.pass_fds) as process:
            with shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
                _converse(transport, reverse=True)
                # The host's copy was closed when the peer had attached: else nobody would ever
                # see the doorbell hang up.
                links = [
                    link
                    for name in os.listdir("/proc/self/fd")
                    if (link := _readlink(f"/proc/self/fd/{name}")) is not None
                ]
                assert before not in links
            assert process.wait(PATIENCE) == 0


def _readlink(path: str) -> str | None:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return None


def test_the_command_line_has_the_agreed_form(stage: Stage, tmp_path: Path) -> None:
    path = str(tmp_path / "hub")
    with shmhub.HubHost.create(path) as named, shmhub.HubHost.create() as anonymous:
        info = named.add_peer()
        assert info.argv == [
            f"--hub-path={path}",
            f"--peer-id={info.peer_id}",
            f"--doorbell-fd={info.peer_doorbell_fd}",
        ]
        assert info.peer_doorbell_fd in info.pass_fds
        other = anonymous.add_peer()
        hub_argument = other.argv[0]
        assert hub_argument.startswith("--hub-path=/proc/self/fd/")
        assert int(hub_argument.rpartition("/")[2]) in other.pass_fds


def test_foreign_arguments_are_left_alone(stage: Stage) -> None:
    with shmhub.HubHost.create() as host:
        info = host.add_peer()
        with info.popen([*ECHO, "--verbose", "input.css", "--peer-idle=3"]) as process:
            with shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
                _converse(transport, reverse=True)
            assert process.wait(PATIENCE) == 0


def test_peer_info_travels_to_a_spawned_multiprocessing_process(
    stage: Stage, hub_path: str | None
) -> None:
    program = [sys.executable, str(_PROGRAMS / "spawning_host.py")]
    done = subprocess.run(
        [*program, *([hub_path] if hub_path else [])],
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
    )
    assert (done.returncode, done.stdout) == (0, "all right\n"), done.stderr


@pytest.mark.parametrize("missing", ["--hub-path", "--peer-id", "--doorbell-fd"])
def test_a_missing_argument_is_named(stage: Stage, missing: str) -> None:
    with shmhub.HubHost.create() as host:
        info = host.add_peer()
        argv = [argument for argument in info.argv if not argument.startswith(missing)]
        done = subprocess.run(
            [*ECHO, *argv], pass_fds=info.pass_fds, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert missing in last, done.stderr
        assert last.startswith("shmhub."), done.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--peer-id", ""),
        ("--peer-id", "one"),
        ("--peer-id", "-1"),
        ("--peer-id", "0"),
        ("--peer-id", "99999999999999999999"),
        ("--doorbell-fd", ""),
        ("--doorbell-fd", "x"),
        ("--doorbell-fd", "-1"),
        ("--doorbell-fd", "99999999999999999999"),
        ("--hub-path", ""),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(stage: Stage, option: str, value: str) -> None:
    with shmhub.HubHost.create() as host:
        info = host.add_peer()
        argv = [
            f"{option}={value}" if argument.startswith(option) else argument
            for argument in info.argv
        ]
        with pytest.raises((shmhub.ShmhubError, ValueError, OSError)) as failure:
            shmhub.HubPeer.from_argv(argv)
        assert option in str(failure.value), failure.value
        assert value in str(failure.value), failure.value
        host.remove_peer(info.peer_id)
