"""Paths that are no hub, ids that are not ours, doorbells that are none: a clear error each."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import shmhub
from tests.support import counts
from tests.support.hub_file import Header
from tests.support.stage import Stage, fixed, small


def _directory(path: Path, hub: Path) -> None:
    path.mkdir()


def _empty(path: Path, hub: Path) -> None:
    path.touch()


def _one_byte(path: Path, hub: Path) -> None:
    path.write_bytes(_start_of(hub, 1))


def _half_a_header(path: Path, hub: Path) -> None:
    path.write_bytes(_start_of(hub, 128))


def _truncated(path: Path, hub: Path) -> None:
    shutil.copyfile(hub, path)
    os.truncate(path, hub.stat().st_size // 2)


def _other_major_version(path: Path, hub: Path) -> None:
    shutil.copyfile(hub, path)
    with Header.open(path) as header:
        header.write("version_major", header.read("version_major") + 1)


def _random_bytes(path: Path, hub: Path) -> None:
    path.write_bytes(os.urandom(100_000))


def _text(path: Path, hub: Path) -> None:
    path.write_text("[hub]\nslots = 3\n" * 1000)


def _half_made(path: Path, hub: Path) -> None:
    shutil.copyfile(hub, path)
    with Header.open(path) as header:
        header.write("magic", 0)


def _fifo(path: Path, hub: Path) -> None:
    os.mkfifo(path)


def _device(path: Path, hub: Path) -> None:
    path.symlink_to("/dev/zero")


def _start_of(hub: Path, length: int) -> bytes:
    with hub.open("rb") as file:
        return file.read(length)


NOT_A_HUB = [
    _directory,
    _empty,
    _one_byte,
    _half_a_header,
    _truncated,
    _other_major_version,
    _random_bytes,
    _text,
    _half_made,
    _fifo,
    _device,
]


@pytest.mark.parametrize("make", NOT_A_HUB, ids=lambda make: make.__name__.strip("_"))
def test_what_is_not_a_hub_is_refused_by_name(
    stage: Stage, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    stage.host(fixed((1024, 8)), tmp_path / "real")
    wrong = tmp_path / "wrong"
    make(wrong, tmp_path / "real")
    with pytest.raises((shmhub.HubFormatError, OSError)) as failure:
        shmhub.HubPeer.open(str(wrong), 1)
    assert str(wrong) in str(failure.value), failure.value


def test_the_errors_of_different_files_say_different_things(stage: Stage, tmp_path: Path) -> None:
    """ "Not a hub" alone does not help: each message says what was found."""
    stage.host(fixed((1024, 8)), tmp_path / "real")
    messages = {}
    for make in (_empty, _truncated, _other_major_version, _text):
        wrong = tmp_path / "wrong"
        wrong.unlink(missing_ok=True)
        make(wrong, tmp_path / "real")
        with pytest.raises(shmhub.HubFormatError) as failure:
            shmhub.HubPeer.open(str(wrong), 1)
        messages[make.__name__] = str(failure.value)
    assert len(set(messages.values())) == len(messages), messages
    assert "version" in messages["_other_major_version"].lower()


def test_a_missing_path_is_file_not_found(stage: Stage, tmp_path: Path) -> None:
    missing = str(tmp_path / "no" / "hub")
    with pytest.raises(OSError) as failure:
        shmhub.HubPeer.open(missing, 1)
    assert missing in str(failure.value)


def test_creating_over_what_is_not_ours_leaves_it_alone(stage: Stage, tmp_path: Path) -> None:
    for make in (_directory, _text, _random_bytes, _fifo, _empty):
        path = tmp_path / f"taken{make.__name__}"
        make(path, path)
        before = path.stat()
        with pytest.raises((shmhub.ShmhubError, OSError)) as failure:
            shmhub.HubHost.create(str(path))
        assert str(path) in str(failure.value), failure.value
        after = path.stat()
        assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)


def test_a_live_hub_is_not_replaced_and_goes_on(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "hub"
    host = stage.host(path=path)
    link_before = path.stat().st_ino
    with pytest.raises(shmhub.HubExistsError) as failure:
        shmhub.HubHost.create(str(path))
    assert str(path) in str(failure.value)
    assert path.stat().st_ino == link_before
    assert stage.peer(host).agent.call("pid") > 0


def test_a_named_hub_is_private_and_goes_with_its_host(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "hub"
    host = shmhub.HubHost.create(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    host.close()
    assert os.listdir(tmp_path) == []


def test_a_symlink_is_never_followed(stage: Stage, tmp_path: Path) -> None:
    target = tmp_path / "target"
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises((shmhub.ShmhubError, OSError)):
        shmhub.HubHost.create(str(link))
    assert not target.exists()
    assert link.is_symlink()


@pytest.mark.parametrize("peer_id", [-1, 0, 16, 63, 64, 1 << 16, 1 << 32])
def test_an_id_out_of_range_is_refused(stage: Stage, peer_id: int) -> None:
    host = stage.host(small(max_peers=16))
    with pytest.raises((shmhub.ShmhubError, ValueError, OverflowError)) as failure:
        peer = shmhub.HubPeer.open(f"/proc/self/fd/{host.fileno()}", peer_id)
        stage.later(peer).register()
    assert str(peer_id) in str(failure.value), failure.value


def test_an_id_that_was_never_added_is_refused(stage: Stage) -> None:
    host = stage.host()
    info = host.add_peer()
    peer = stage.later(shmhub.HubPeer.open(f"/proc/self/fd/{host.fileno()}", info.peer_id + 1))
    with pytest.raises((shmhub.NotAttachedError, shmhub.PeerStateError)) as failure:
        peer.register()
    assert str(info.peer_id + 1) in str(failure.value)


def test_an_id_that_has_attached_already_is_refused(stage: Stage) -> None:
    host = stage.host()
    link = stage.peer(host)
    peer = stage.later(shmhub.HubPeer.open(f"/proc/self/fd/{host.fileno()}", link.peer_id))
    with pytest.raises((shmhub.NotAttachedError, shmhub.PeerStateError)):
        peer.register()
    link.transport.send(b"still there")
    assert link.agent.call("recv", timeout=10)[0]["bytes"] == b"still there"


def test_a_removed_id_is_refused(stage: Stage) -> None:
    host = stage.host()
    info = host.add_peer()
    host.remove_peer(info.peer_id)
    peer = stage.later(shmhub.HubPeer.open(f"/proc/self/fd/{host.fileno()}", info.peer_id))
    with pytest.raises((shmhub.NotAttachedError, shmhub.PeerStateError)):
        peer.register()


def _pipe_end() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def _plain_file() -> int:
    return os.memfd_create("not a doorbell")


def _udp_socket() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        return made.detach()


def _unconnected_socket() -> int:
    with socket.socket(socket.AF_UNIX) as made:
        return made.detach()


@pytest.mark.parametrize(
    "make",
    [_pipe_end, _plain_file, _udp_socket, _unconnected_socket],
    ids=lambda make: make.__name__.strip("_"),
)
def test_a_doorbell_that_is_none_is_refused(stage: Stage, make: Callable[[], int]) -> None:
    fd = make()
    try:
        with pytest.raises((shmhub.ShmhubError, OSError, ValueError)) as failure:
            shmhub.Doorbell.from_raw_fd(fd)
        assert str(fd) in str(failure.value), failure.value
    finally:
        os.close(fd)  # a refused descriptor stays the caller's


def test_a_closed_doorbell_descriptor_is_refused(stage: Stage) -> None:
    fd = os.memfd_create("soon closed")
    os.close(fd)
    for number in (fd, -1, 1 << 20):
        with pytest.raises((shmhub.ShmhubError, OSError, ValueError)) as failure:
            shmhub.Doorbell.from_raw_fd(number)
        assert str(number) in str(failure.value)


def test_a_doorbell_of_another_hub_does_not_attach(stage: Stage) -> None:
    """The id was claimed in one hub, the doorbell rings at another: neither may be confused."""
    right, wrong = stage.host(), stage.host()
    info, other = right.add_peer(), wrong.add_peer()
    agent = stage.agent()
    fds = [right.fileno(), other.peer_doorbell_fd]
    with pytest.raises((shmhub.ShmhubError, OSError)):
        agent.call("attach", fds=fds, peer_id=info.peer_id)
    agent.kill()
    for host in (right, wrong):
        link = stage.peer(host)
        link.transport.send(b"works")
        assert link.agent.call("recv", timeout=10)[0]["bytes"] == b"works"
        counts.wait_all_free(host)


def test_a_stranger_at_the_other_end_of_the_doorbell_does_not_hang_the_plugin(
    stage: Stage,
) -> None:
    """A socketpair whose other end nobody serves, and one whose other end is closed."""
    host = stage.host()
    info = host.add_peer()
    ours, theirs = socket.socketpair()
    agent = stage.agent()
    pending = agent.start("attach", fds=[host.fileno(), theirs.fileno()], peer_id=info.peer_id)
    theirs.close()
    pending.wait_begun()
    ours.close()
    with pytest.raises((shmhub.ShmhubError, OSError)):
        pending.result()
