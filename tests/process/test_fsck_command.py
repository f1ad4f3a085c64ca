"""`python -m shmhub fsck` and `host.fsck()` on real processes: live hubs, remains, core dumps."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shmhub
from tests.support import counts, patterns
from tests.support.environment import PATIENCE, is_full_run
from tests.support.hub_file import SLOT_META, Header
from tests.support.scribbler import damage
from tests.support.stage import Stage, fixed

CONFIG = "shmhub.HubConfig(size_classes=[shmhub.SizeClass(1024, 8, 8)], max_peers=4)"
# A host with three slots of its own, damaged on request, that waits to be killed.
HOST = f"""
import os, shmhub, struct, sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
from tests.support.hub_file import Header, SLOT_META
path = sys.argv[1] or None
host = shmhub.HubHost.create(path, {CONFIG})
transport = shmhub.HubHostTransport(host)
held = [transport.alloc(1000) for _ in range(3)]
for slot in held:
    with memoryview(slot) as view:  # in place: nowhere else in memory is this pattern
        for i in range(900):
            view[i] = (7 * i + 3) % 251
if sys.argv[2:] == ["damaged"]:
    with Header(host.fileno()) as header:
        start = next(r.start for r in header.regions(1) if r.name == "slots of class 0")
        struct.pack_into("<Q", header.map, start + 7 * SLOT_META, 55 << 16)
print("ready", flush=True)
sys.stdin.read()
"""


def fsck(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", "shmhub", "fsck", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **options,
    )


class OtherHost:
    """A host in another process."""

    def __init__(self, path: str | Path, *arguments: str, cwd: Path, core: bool = False) -> None:
        def allow_core() -> None:
            resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOST, str(path), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=cwd,
            preexec_fn=allow_core if core else None,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def end(self, with_signal: int = signal.SIGKILL) -> None:
        with self.process:
            self.process.send_signal(with_signal)
            self.process.wait(PATIENCE)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[OtherHost]:
    host = OtherHost(tmp_path / "hub", "damaged", cwd=tmp_path)
    yield host
    host.end()


def test_a_live_hub_by_path_process_and_descriptor(other: OtherHost, tmp_path: Path) -> None:
    path = tmp_path / "hub"
    with path.open("rb") as file:
        fd = file.fileno()
        for target, options in (
            (str(path), {}),
            (str(other.process.pid), {}),
            (f"fd:{fd}", {"pass_fds": (fd,)}),
        ):
            outcome = fsck(target, **options)
            assert outcome.returncode == 1, outcome.stderr
            assert "slot 0:7: ctl: state 55 (there is none)" in outcome.stdout
            assert "1 found, 0 repaired, 1 left; 8 slots looked at" in outcome.stdout
            [found] = json.loads(fsck("--json", target, **options).stdout)
            assert (found["clean"], found["found"], found["live"]) == (False, 1, True)
            assert found["findings"][0]["place"] == "slot 0:7"


def test_a_live_hub_is_repaired_by_its_host_alone(other: OtherHost, tmp_path: Path) -> None:
    for target in (str(tmp_path / "hub"), str(other.process.pid), "fd:0"):
        outcome = fsck("--repair", target)
        assert outcome.returncode == 2
        assert "HubHost.fsck(repair=True)" in outcome.stderr
    assert other.process.poll() is None


def test_the_remains_of_a_host_are_repaired(tmp_path: Path) -> None:
    path = tmp_path / "hub"
    OtherHost(path, "damaged", cwd=tmp_path).end()
    assert fsck(path).returncode == 1
    outcome = fsck("--repair", path)
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    assert "1 found, 1 repaired, 0 left" in outcome.stdout
    assert "note: 3 slots of the dead were freed" in outcome.stdout
    outcome = fsck("--repair", path)
    assert outcome.returncode == 0
    assert "clean; 8 slots looked at" in outcome.stdout
    assert fsck(path).returncode == 0


def test_what_is_no_hub_is_said(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a hub" * 1000)
    for target in ("text", "missing", "."):
        outcome = fsck(target, cwd=tmp_path)
        assert (outcome.returncode, outcome.stdout) == (2, "")
        assert target in outcome.stderr
    (tmp_path / "elf").write_bytes(b"\x7fELF" + bytes(5000))
    outcome = fsck("elf", cwd=tmp_path)
    assert outcome.returncode == 2
    assert "not a core dump" in outcome.stderr
    assert fsck("--repair", "elf", cwd=tmp_path).returncode == 2
    assert fsck(str(2**22 + 1)).returncode == 2, "no such process"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        outcome = fsck(str(process.pid))
        assert (outcome.returncode, "no hub open" in outcome.stderr) == (2, True)


def test_a_hub_of_a_process_whose_header_is_broken_is_not_passed_over(tmp_path: Path) -> None:
    with shmhub.HubHost.create(config=fixed((1024, 8))) as host, Header(host.fileno()) as header:
        header.write("block_stride", 1)
        outcome = fsck(str(os.getpid()))
        assert outcome.returncode == 2
        assert "cannot be checked: " in outcome.stderr
        assert "offsets do not follow" in outcome.stderr
        assert host.fsck(repair=True).clean
        assert fsck(str(os.getpid())).returncode == 0


# ---- core dumps --------------------------------------------------------------------------------


def _core_of_the_kernel(tmp_path: Path) -> Path:
    host = OtherHost("", "damaged", cwd=tmp_path, core=True)
    host.end(signal.SIGABRT)
    cores = list(tmp_path.glob("core*"))
    if not cores:
        pytest.skip("this machine writes no core dumps into the working folder")
    return cores[0]


def _core_of_gdb(tmp_path: Path) -> Path:
    gcore = shutil.which("gcore")
    if gcore is None:
        pytest.skip("there is no gcore here")
    host = OtherHost("", "damaged", cwd=tmp_path)
    try:
        made = subprocess.run(
            [gcore, "-o", str(tmp_path / "core"), str(host.process.pid)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    finally:
        host.end()
    cores = list(tmp_path.glob("core.*"))
    if made.returncode != 0 or not cores:
        pytest.skip(f"gcore does not work here: {made.stderr[-200:]}")
    return cores[0]


@pytest.mark.parametrize("make", [_core_of_the_kernel, _core_of_gdb])
def test_a_core_dump_holds_the_metadata_and_not_the_payloads(make: Any, tmp_path: Path) -> None:
    core = make(tmp_path)
    outcome = fsck(core)
    assert outcome.returncode == 1, outcome.stderr
    assert "slot 0:7: ctl: state 55 (there is none)" in outcome.stdout
    [found] = json.loads(fsck("--json", core).stdout)
    assert (found["slots"], found["found"]) == (8, 1)
    pattern = bytes((7 * i + 3) % 251 for i in range(100))
    assert pattern not in core.read_bytes()
    assert fsck("--repair", core).returncode == 2


# ---- what a liar leaves ------------------------------------------------------------------------


def test_full_capacity_after_random_damage_by_a_peer_that_is_dead(
    stage: Stage, rng: random.Random
) -> None:
    """Whatever it wrote: the host repairs it, all slots can be had, and a plugin works."""
    host = stage.host(fixed((1024, 32), (16384, 16), max_peers=6, ring_capacity=16))
    for _ in range(60 if is_full_run() else 12):
        liar = stage.peer(host)
        with Header(host.fileno()) as header:
            for _ in range(rng.choice([3, 60])):
                damage(header, rng.choice(header.regions(liar.peer_id)), rng)
        liar.kill()
        counts.wait_gone(host, liar.peer_id)
        report = host.fsck(repair=True)
        assert report.clean, report.findings[-3:]
        assert host.fsck() == host.fsck(repair=True)._replace(bytes_given_back=0)
        assert report.off_list == 0
        honest = stage.peer(host)
        honest.transport.send(patterns.make(900))
        assert honest.agent.call("recv", timeout=10)[0]["length"] == 900
        counts.assert_full_capacity(honest.transport, host)
        honest.kill()
        counts.wait_gone(host, honest.peer_id)
        counts.wait_all_free(host)


def test_honest_peers_go_on_while_their_hub_is_repaired(stage: Stage, rng: random.Random) -> None:
    host = stage.host(fixed((1024, 32), (16384, 16), max_peers=6, ring_capacity=16))
    honest = stage.peer(host)
    with Header(host.fileno()) as header:
        slots = next(r for r in header.regions(1) if r.name == "slots of class 0")
        for _ in range(20):
            index = rng.randrange(slots.length // SLOT_META)
            struct.pack_into(
                "<I", header.map, slots.start + index * SLOT_META + 8, rng.randrange(99)
            )
            assert host.fsck(repair=True).clean
            honest.transport.send(patterns.make(1000))
            assert honest.agent.call("recv", timeout=10)[0]["length"] == 1000
            assert host.fsck().clean
    honest.kill()
    counts.wait_gone(host, honest.peer_id)
    assert host.fsck(repair=True).off_list == 0
