"""A full tmpfs under a named hub: exceptions when a slot is backed, never a SIGBUS."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmhub
from tests.support import counts, patterns
from tests.support.environment import BRIEF, PATIENCE
from tests.support.stage import Stage, fixed

_MIB = 1 << 20


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB. Tests name it before ``stage``: hubs end before it is unmounted."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"this machine does not allow to mount a tmpfs: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _config() -> shmhub.HubConfig:
    return fixed((1024, 64), (64 * 1024, 64), (_MIB, 16))


def _fill(folder: Path, leave: int) -> Path:
    """Takes everything but ``leave`` bytes of the file system."""
    filler = folder / "filler"
    space = os.statvfs(folder)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - leave)
    return filler


def test_creating_on_a_full_file_system_is_an_error_and_leaves_nothing(
    small_tmpfs: Path, stage: Stage
) -> None:
    for leave in (4096 * pages for pages in (1, 2, 3, 5, 8, 13)):
        filler = _fill(small_tmpfs, leave)
        try:
            host = shmhub.HubHost.create(str(small_tmpfs / "hub"), _config())
        except OSError as error:
            assert isinstance(error, shmhub.HubNoSpaceError), error
        else:
            host.close()
        assert os.listdir(small_tmpfs) == ["filler"]
        filler.unlink()
    with pytest.raises(shmhub.HubNoSpaceError):
        _fill(small_tmpfs, 4096)
        shmhub.HubHost.create(str(small_tmpfs / "hub"), _config())


def test_adding_peers_on_a_full_file_system(small_tmpfs: Path, stage: Stage) -> None:
    host = stage.host(fixed((1024, 8), max_peers=32, ring_capacity=1024), path=small_tmpfs / "hub")
    filler = _fill(small_tmpfs, 300_000)
    added: list[int] = []
    with pytest.raises(shmhub.HubNoSpaceError):
        added.extend(host.add_peer().peer_id for _ in range(31))
    filler.unlink()
    assert host.add_peer().peer_id not in added


def test_allocating_until_the_file_system_is_full(small_tmpfs: Path, stage: Stage) -> None:
    host = stage.host(_config(), path=small_tmpfs / "hub")
    link = stage.peer(host)
    taken = []
    with pytest.raises((shmhub.HubNoSpaceError, shmhub.SlotsExhaustedError)):
        while True:
            slot = link.transport.alloc_nowait(_MIB)
            slot.write(b"\x5a" * _MIB)
            taken.append(slot)
    assert 1 <= len(taken) <= 3
    for call in (
        lambda: link.transport.send(bytes(_MIB), timeout=BRIEF),
        lambda: link.agent.call("alloc", nbytes=_MIB, timeout=BRIEF),
        lambda: link.agent.call("send", size=_MIB, timeout=BRIEF),
    ):
        with pytest.raises(
            (shmhub.HubNoSpaceError, shmhub.SlotsExhaustedError, shmhub.HubTimeoutError)
        ):
            call()
    for slot in taken:
        with memoryview(slot) as view:
            assert view[0] == view[-1] == 0x5A
        slot.release()
    counts.wait_all_free(host)
    link.transport.send(b"y" * _MIB)
    assert link.agent.call("recv_raw", timeout=PATIENCE) == _MIB


def test_a_file_system_that_others_fill_up_and_clear(small_tmpfs: Path, stage: Stage) -> None:
    """What is backed stays usable; what is not fails until there is room; then it works again."""
    host = stage.host(_config(), path=small_tmpfs / "hub")
    link = stage.peer(host)
    warm = link.transport.alloc(64 * 1024)
    filler = _fill(small_tmpfs, 8192)
    warm.write(b"w" * 64 * 1024)
    with pytest.raises((shmhub.HubNoSpaceError, shmhub.SlotsExhaustedError)):
        link.transport.alloc_nowait(_MIB)
    warm.release()
    link.transport.send(patterns.make(19))
    assert link.agent.call("recv", timeout=10)[0]["length"] == 19
    filler.unlink()
    link.transport.alloc(_MIB, timeout=PATIENCE).release()
    counts.wait_all_free(host)


def test_trim_gives_a_full_file_system_room(small_tmpfs: Path, stage: Stage) -> None:
    host = stage.host(_config(), path=small_tmpfs / "hub")
    link = stage.peer(host)
    link.transport.alloc(_MIB).release()
    before = os.statvfs(small_tmpfs).f_bavail
    given_back = host.trim()
    assert given_back >= _MIB
    assert os.statvfs(small_tmpfs).f_bavail > before
