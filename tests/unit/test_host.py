"""HubHost and PeerInfo around the core: what they log, refuse, pass on and warn of."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmhub

SMALL = shmhub.HubConfig(size_classes=(shmhub.SizeClass(1024, 4, 4),))
PLUGIN = """
import logging, sys, shmhub
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
with shmhub.HubPeerTransport.from_argv() as host:
    for frame in host:
        host.send(bytes(frame), **frame.reply_to())
"""


@pytest.fixture
def host() -> Iterator[shmhub.HubHost]:
    with shmhub.HubHost.create(None, SMALL) as made:
        yield made


# ---- creating ----------------------------------------------------------------------------------


def test_created_where(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shmhub")
    path = tmp_path / "hub"
    with shmhub.HubHost.create(path, SMALL) as named, shmhub.HubHost.create(None, SMALL) as memfd:
        assert (named.path, memfd.path) == (str(path), None)
        assert repr(named) == f"<HubHost {path}>"
        assert repr(memfd) == "<HubHost memfd>"
    assert repr(named) == "<HubHost closed>"
    assert [record.getMessage() for record in caplog.records if record.levelname == "INFO"] == [
        f"created hub SHM at {path}",
        "created hub SHM at memfd",
    ]


def test_a_relative_path_leads_plugins_to_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with shmhub.HubHost.create("hub", SMALL) as host:
        assert host.path == str(tmp_path / "hub")
        assert host.add_peer().argv[0] == f"--hub-path={tmp_path / 'hub'}"


def test_a_wrong_config_is_refused() -> None:
    with pytest.raises(TypeError, match="config must be a HubConfig, not 5"):
        shmhub.HubHost.create(None, 5)  # type: ignore[arg-type]


def test_the_config_in_force_has_no_open_questions() -> None:
    with shmhub.HubHost.create() as host:
        assert host.config.max_bytes is not None
        wanted = shmhub.HubConfig(max_bytes=host.config.max_bytes)
        assert host.config == wanted


LIMITED = """
import json, resource, sys, warnings
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
import shmhub
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with shmhub.HubHost.create() as host:
        room = sum(one.slot_size * one.max_slots for one in host.config.size_classes)
        slots = host.config.size_classes[0].slots
refused = False
with warnings.catch_warnings():
    warnings.simplefilter("error")
    import os
    before = os.listdir("/proc/self/fd")
    try:
        shmhub.HubHost.create()
    except RuntimeWarning:
        refused = True
    refused = refused and os.listdir("/proc/self/fd") == before
print(json.dumps([room, slots, [(one.category.__name__, str(one.message), one.filename)
                                for one in caught], refused]))
"""


def test_a_limit_on_address_space_is_warned_of(tmp_path: Path) -> None:
    program = tmp_path / "limited.py"
    program.write_text(LIMITED)
    outcome = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=30
    )
    assert outcome.returncode == 0, outcome.stderr
    room, slots, [(category, message, where)], nothing_left = json.loads(outcome.stdout)
    assert room < 1 << 30
    assert slots == 1024, "what is there from the start is not cut"
    assert (category, where) == ("RuntimeWarning", str(program)), "blamed on the caller"
    assert "ulimit -v" in message
    assert nothing_left is True, "a warning that is an error leaves no hub behind"


# ---- peers -------------------------------------------------------------------------------------


def test_a_peer_without_a_name_gets_one(host: shmhub.HubHost) -> None:
    assert [host.add_peer().name, host.add_peer("css").name] == ["peer-1", "css"]
    assert [(peer.name, peer.state) for peer in host.peers] == [
        ("peer-1", "reserved"),
        ("css", "reserved"),
    ]
    names = {peer.peer_id: peer.name for peer in host.statistics().peers}
    assert names == {0: "host", 1: "peer-1", 2: "css"}


def test_a_conversation_is_logged_and_the_descriptors_of_the_caller_are_passed_too(
    host: shmhub.HubHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "shmhub")
    read_end, write_end = os.pipe()
    info = host.add_peer("echo")
    code = f"import os; os.write({write_end}, b'here')\n{PLUGIN}"
    with info.popen(
        [sys.executable, "-c", code], pass_fds=[write_end], stdout=subprocess.PIPE, text=True
    ) as process:
        os.close(write_end)
        assert os.read(read_end, 10) == b"here"
        os.close(read_end)
        with shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
            transport.send(b"question", message_id=77)
            with transport.recv(timeout=30) as frame:
                assert (bytes(frame), frame.message_id) == (b"question", 77)
        assert process.stdout is not None
        assert (
            process.stdout.read()
            == f"INFO Connected to host via hub SHM (peer id {info.peer_id})\n"
        )
        assert process.wait(30) == 0
    assert host.peers == ()
    messages = [record.getMessage() for record in caplog.records]
    assert any(f"peer 1 (epoch {info.epoch}, pid {process.pid}) attached" in m for m in messages)
    assert any("left in good order" in m for m in messages)


def test_a_place_is_given_to_one_program(host: shmhub.HubHost) -> None:
    info = host.add_peer("once")
    with info.popen([sys.executable, "-c", PLUGIN], stdout=subprocess.DEVNULL) as process:
        with pytest.raises(shmhub.PeerStateError, match="given away or closed already"):
            info.popen([sys.executable, "-c", PLUGIN])
        transport = shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell)
        transport.send(b"x")
        transport.recv(timeout=30).release()
        transport.close()
        assert process.wait(30) == 0


def test_a_program_that_does_not_exist_leaves_the_place_for_another(host: shmhub.HubHost) -> None:
    info = host.add_peer()
    with pytest.raises(FileNotFoundError):
        info.popen("no-such-program-anywhere")
    assert [peer.state for peer in host.peers] == ["reserved"]
    with info.popen([sys.executable, "-c", PLUGIN], stdout=subprocess.DEVNULL) as process:
        transport = shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell)
        transport.send(b"x")
        transport.recv(timeout=30).release()
        transport.close()
        assert process.wait(30) == 0


def test_a_shell_cannot_have_arguments_appended(host: shmhub.HubHost) -> None:
    with pytest.raises(ValueError, match="shell=True"):
        host.add_peer().popen("program", shell=True)


def test_the_doorbell_must_be_the_peers(host: shmhub.HubHost) -> None:
    first, second = host.add_peer(), host.add_peer()
    with pytest.raises(ValueError, match="that of peer 2, not of peer 1"):
        shmhub.HubHostPeerTransport(host, first.peer_id, second.doorbell)


@pytest.mark.parametrize("form", ["process", "pid", "pidfd"])
def test_a_watched_program_that_never_attaches_is_told_of(
    host: shmhub.HubHost, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    info = host.add_peer("sleepy")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        pidfd = os.pidfd_open(process.pid)
        info.watch({"process": process, "pid": process.pid, "pidfd": pidfd}[form])
        os.close(pidfd)
        info.close_peer_fd()
    transport = shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell)
    with transport, pytest.raises(shmhub.PeerGoneError, match="never attached"):
        transport.recv(timeout=30)
    host.statistics()
    assert any("never attached" in record.getMessage() for record in caplog.records)


def test_watching_what_is_not_there(host: shmhub.HubHost) -> None:
    info = host.add_peer()
    with subprocess.Popen(["true"]) as process:
        pass
    with pytest.raises(ProcessLookupError):
        info.watch(process)


def test_a_place_on_a_closed_hub() -> None:
    with shmhub.HubHost.create(None, SMALL) as host:
        info = host.add_peer()
    with pytest.raises(shmhub.HubClosedError):
        info.argv  # noqa: B018 - the access is the test
