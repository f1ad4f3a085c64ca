"""Every field and every byte of a named hub's header damaged before a peer opens it."""

from __future__ import annotations

import fcntl
import os
import random
from pathlib import Path

import pytest

import shmhub
from tests.support import counts
from tests.support.environment import is_full_run
from tests.support.hub_file import HEADER_FIELDS, Header
from tests.support.stage import Stage, fixed
from tests.support.waiting import until

# What these hold is nothing that a peer could check: any value is as good as another.
HARMLESS = {"version_minor", "host_pid", "created_realtime_ns", "max_bytes", "spin_ns"}


def _config() -> shmhub.HubConfig:
    return fixed((1024, 16), (65536, 8), max_peers=8, ring_capacity=16)


def _extremes(width: int) -> list[int]:
    top = (1 << (8 * width)) - 1
    return [0, 1, 7, 63, 64, 65, 4095, 4096, top // 2, top // 2 + 1, top - 63, top]


def _open_and_register(path: Path, peer_id: int) -> None:
    peer = shmhub.HubPeer.open(str(path), peer_id)
    try:
        peer.register()
    finally:
        peer.close()


class _Victim:
    """A live named hub whose header is damaged and mended again."""

    def __init__(self, stage: Stage, path: Path) -> None:
        self.host = stage.host(_config(), path=path)
        self.path = path
        self.header = stage.later(Header.open(path))
        self.good = bytes(self.header.map[:256])

    def mend(self) -> None:
        self.header.map[:256] = self.good

    def _add_peer(self) -> shmhub.PeerInfo | None:
        try:
            return self.host.add_peer()
        except shmhub.PeerLimitError:
            return None

    def try_to_open(self, what: str) -> Exception | None:
        """Errors are fine, crashes and hangs are not; runs in this process on purpose."""
        # An id that was just removed is free again once its doorbell is seen to be closed.
        info = until(self._add_peer, "an id to be free")
        try:
            _open_and_register(self.path, info.peer_id)
        except (shmhub.ShmhubError, OSError) as error:
            assert str(error), what
            return error
        finally:
            self.mend()
            self.host.remove_peer(info.peer_id)
        return None


@pytest.mark.parametrize("field", sorted(HEADER_FIELDS))
def test_every_field_at_its_extremes(stage: Stage, tmp_path: Path, field: str) -> None:
    victim = _Victim(stage, tmp_path / "hub")
    original = victim.header.read(field)
    width = {"Q": 8, "q": 8, "I": 4, "i": 4, "H": 2}[HEADER_FIELDS[field][1][1]]
    accepted = []
    for value in _extremes(width):
        signed = HEADER_FIELDS[field][1][1].islower()
        wanted = value - (1 << 8 * width) if signed and value >> (8 * width - 1) else value
        if wanted == original:
            continue
        victim.header.write(field, wanted)
        if victim.try_to_open(f"{field}={wanted}") is None:
            accepted.append(wanted)
    if field not in HARMLESS | {"host_closed"}:
        assert not accepted, f"{field} (right: {original}) was accepted as {accepted}"
    _still_works(stage, victim)


def _still_works(stage: Stage, victim: _Victim) -> None:
    link = stage.peer(victim.host)
    link.transport.send(b"x" * 2000)
    assert link.agent.call("recv_raw", timeout=10) == 2000
    counts.assert_full_capacity(link.transport, victim.host)


def test_random_bytes_anywhere_in_the_header(
    stage: Stage, tmp_path: Path, rng: random.Random
) -> None:
    victim = _Victim(stage, tmp_path / "hub")
    refused = 0
    for _ in range(20_000 if is_full_run() else 1500):
        changed = {rng.randrange(128): rng.randrange(256) for _ in range(rng.randrange(1, 5))}
        for offset, value in changed.items():
            victim.header.map[offset] = value
        refused += victim.try_to_open(f"{changed}") is not None
    assert refused > 0
    _still_works(stage, victim)


def test_a_header_of_random_bytes_with_a_right_magic(
    stage: Stage, tmp_path: Path, rng: random.Random
) -> None:
    victim = _Victim(stage, tmp_path / "hub")
    for _ in range(300):
        victim.header.map[16:120] = rng.randbytes(104)
        assert victim.try_to_open("random header") is not None
    _still_works(stage, victim)


def test_class_tables_of_random_bytes(stage: Stage, tmp_path: Path, rng: random.Random) -> None:
    """Geometry comes from the attach handshake: a damaged class table harms nobody who attaches."""
    victim = _Victim(stage, tmp_path / "hub")
    start = victim.header.read("classes_offset")
    good = bytes(victim.header.map[start : start + 48])
    for _ in range(100):
        victim.header.map[start : start + 48] = rng.randbytes(48)
        victim.try_to_open("random class table")
        victim.header.map[start : start + 48] = good
    _still_works(stage, victim)


@pytest.mark.parametrize("length", [0, 1, 8, 255, 256, 4095, 4096, 65536])
def test_files_cut_off_anywhere(stage: Stage, tmp_path: Path, length: int) -> None:
    victim = _Victim(stage, tmp_path / "hub")
    cut = tmp_path / "cut"
    with victim.path.open("rb") as file:
        cut.write_bytes(file.read(length))
    with pytest.raises(shmhub.HubFormatError) as failure:
        shmhub.HubPeer.open(str(cut), 1)
    assert str(cut) in str(failure.value)


def test_the_memfd_is_sealed_against_shrinking_and_growing(stage: Stage) -> None:
    host = stage.host(_config())
    size = os.fstat(host.fileno()).st_size
    for length in (0, size - 4096, size + 4096):
        with pytest.raises(PermissionError):
            os.ftruncate(host.fileno(), length)
    with pytest.raises(PermissionError):
        fcntl.fcntl(host.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
