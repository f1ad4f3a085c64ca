"""`python -m shmhub`: what is printed, for people and for programs, and exit statuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shmhub
from shmhub._gc import collect

HOST = """
import os, shmhub, sys
host = shmhub.HubHost.create(sys.argv[1])
info = host.add_peer("css")
print("ready", flush=True)
sys.stdin.read()
"""


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", "shmhub", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


@pytest.fixture
def host() -> Iterator[shmhub.HubHost]:
    with shmhub.HubHost.create() as made:
        yield made


@pytest.fixture
def dead_hub(tmp_path: Path) -> Path:
    """A named hub whose host was killed."""
    path = tmp_path / "dead"
    with subprocess.Popen(
        [sys.executable, "-c", HOST, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    assert path.exists()
    return path


def test_no_command_is_wrong_usage() -> None:
    outcome = command()
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert "inspect TARGET" in outcome.stderr


def test_an_unknown_command_is_wrong_usage() -> None:
    outcome = command("destroy")
    assert outcome.returncode == 2
    assert "destroy" in outcome.stderr


def test_version() -> None:
    assert command("--version").stdout == f"shmhub {shmhub.__version__}\n"


@pytest.mark.parametrize("name", ["inspect", "fsck", "gc", "doctor"])
def test_help_shows_an_example(name: str) -> None:
    outcome = command(name, "--help")
    assert outcome.returncode == 0
    assert f"example:\n  python -m shmhub {name}" in outcome.stdout


def test_build_flags_lead_to_header_and_library() -> None:
    flags = command("--cflags", "--libs").stdout.split()
    include = next(flag.removeprefix("-I") for flag in flags if flag.startswith("-I"))
    library = next(flag.removeprefix("-L") for flag in flags if flag.startswith("-L"))
    assert Path(include, "hub.h").is_file()
    assert Path(library, "libshmhub.a").is_file()
    assert flags[-2:] == ["-lshmhub", "-pthread"]
    assert command("--cflags").stdout.split() == [f"-I{include}"]


# ---- inspect -----------------------------------------------------------------------------------


def test_inspect_a_live_named_hub(tmp_path: Path) -> None:
    path = tmp_path / "hub"
    with shmhub.HubHost.create(path) as host:
        info = host.add_peer("css")
        outcome = command("inspect", str(path))
        assert outcome.returncode == 0, outcome.stderr
        for text in (str(path), f"process {os.getpid()}, alive", "16 KiB", "css", "reserved"):
            assert text in outcome.stdout
        [facts] = json.loads(command("inspect", str(path), "--json").stdout)
        assert facts["live"] is True
        assert facts["host_pid"] == os.getpid()
        assert [one[0] for one in facts["size_classes"]] == [
            one.slot_size for one in host.config.size_classes
        ]
        assert [peer[1] for peer in facts["peers"] if peer[0] == info.peer_id] == ["css"]


def test_inspect_by_process(host: shmhub.HubHost) -> None:
    hubs = json.loads(command("inspect", str(os.getpid()), "--json").stdout)
    named = {os.stat(one["where"]).st_ino: one for one in hubs}
    assert len(named) == len(hubs), "each hub once"
    facts = named[os.fstat(host.fileno()).st_ino]
    assert (facts["host_pid"], facts["live"]) == (os.getpid(), True)


def test_inspect_by_descriptor(host: shmhub.HubHost) -> None:
    fd = host.fileno()
    outcome = command("inspect", f"fd:{fd}", "--json", pass_fds=(fd,))
    [facts] = json.loads(outcome.stdout)
    assert facts["host_pid"] == os.getpid()


def test_inspect_changes_nothing(host: shmhub.HubHost) -> None:
    host.add_peer("one")
    before = os.pread(host.fileno(), 65536, 0)
    assert command("inspect", f"/proc/{os.getpid()}/fd/{host.fileno()}").returncode == 0
    assert os.pread(host.fileno(), 65536, 0) == before


def test_inspect_the_remains_of_a_dead_hub(dead_hub: Path) -> None:
    outcome = command("inspect", str(dead_hub))
    assert outcome.returncode == 0, outcome.stderr
    assert "dead: these are its remains" in outcome.stdout
    assert "css" in outcome.stdout
    [facts] = json.loads(command("inspect", str(dead_hub), "--json").stdout)
    assert facts["live"] is False


def test_inspect_says_what_is_no_hub(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a hub" * 1000)
    for target in ("text", "missing", "."):
        outcome = command("inspect", target, cwd=tmp_path)
        assert (outcome.returncode, outcome.stdout) == (1, "")
        assert outcome.stderr.startswith(f"inspect {target}: ")
    for odd in ("fd:99999999999", "fd:\u00b2", "\u00b2"):
        for what, status in (("inspect", 1), ("fsck", 2)):
            outcome = command(what, odd, cwd=tmp_path)
            assert (outcome.returncode, outcome.stdout) == (status, ""), outcome
            assert len(outcome.stderr.splitlines()) == 1
    nobody = 2**22 + 1  # beyond the largest process id
    assert command("inspect", str(nobody)).returncode == 1


def test_inspect_a_process_without_a_hub() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        outcome = command("inspect", str(process.pid))
        assert outcome.returncode == 1
        assert "no hub open" in outcome.stderr


# ---- gc ----------------------------------------------------------------------------------------


def test_gc_removes_the_dead_and_leaves_the_living_and_the_foreign(
    dead_hub: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"x" * 10_000)
    (tmp_path / "link").symlink_to(dead_hub)
    live = tmp_path / "live"
    with shmhub.HubHost.create(live):
        dry = command("gc", "--dry-run", str(tmp_path))
        assert f"stale: {dead_hub}\n" in dry.stdout
        assert dead_hub.exists()
        outcome = command("gc", str(tmp_path))
        assert outcome.returncode == 0, outcome.stderr
        assert sorted(outcome.stdout.splitlines()) == [f"live: {live}", f"removed: {dead_hub}"]
        assert (live.exists(), foreign.exists(), dead_hub.exists()) == (True, True, False)
    assert command("gc", str(tmp_path)).stdout == f"no named hub in {tmp_path}\n"


def test_gc_passes_over_what_is_gone_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.touch()
    scandir = os.scandir

    def meanwhile(place: str) -> list[os.DirEntry[str]]:
        found = list(scandir(place))
        gone.unlink()
        return found

    monkeypatch.setattr(os, "scandir", meanwhile)
    assert list(collect([str(tmp_path)])) == []


def test_gc_of_single_files_for_programs(dead_hub: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"x" * 10_000)
    outcome = command("gc", "--json", str(foreign), str(dead_hub), str(tmp_path / "missing"))
    assert outcome.returncode == 1, "two of them could not be dealt with"
    verdicts = {one["path"]: one["verdict"] for one in json.loads(outcome.stdout)}
    assert verdicts == {
        str(foreign): "not a hub",
        str(dead_hub): "removed",
        str(tmp_path / "missing"): "failed",
    }
