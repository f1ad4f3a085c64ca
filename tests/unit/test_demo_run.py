"""The demo as a whole, with its three plugins as real processes; and that it can fail."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from shmhub import HubConfig, HubHost, SizeClass, UnsupportedPlatformError
from shmhub.demo import jobs, main, png, program
from shmhub.demo.crew import DemoFailed
from shmhub.demo.files import Source
from shmhub.demo.jobs import HUB_CLASSES, Kind, Status
from shmhub.demo.killing import KillPlan
from shmhub.demo.runner import Runner
from shmhub.demo.tally import Tally, Task

DEMO = [sys.executable, "-m", "shmhub", "demo"]
GIB = 1 << 30


def picture(width: int, height: int, colour: int = 2, depth: int = 8, seed: int = 1) -> bytes:
    header = png.Header(width, height, depth, colour)
    row = random.Random(seed).randbytes(header.passes()[0][1])
    return png.encode(png.make_raster(header, row * height))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    where = tmp_path / "files"
    where.mkdir()
    rng = random.Random(7)
    for number in range(30):
        words = " ".join(str(rng.randrange(1000)) for _ in range(3 ** (number % 10)))
        (where / f"{number}.txt").write_text(words)
        (where / f"{number}.css").write_text(f"a{number} {{ margin : 0.50em }} " * (number * 5))
    for number in range(8):
        (where / f"{number}.png").write_bytes(picture(20 + 30 * number, 100))
    (where / "large.png").write_bytes(picture(500, 400))
    return where


def run(*arguments: object, **keywords: Any) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [*DEMO, *map(str, arguments), "--json"], capture_output=True, text=True, **keywords
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def processes_named(text: str) -> list[int]:
    """Ids of live processes with `text` in their command line."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path("/proc", name, "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in words:
                found.append(int(name))
    return found


# -- it works ------------------------------------------------------------------------------------


def test_a_folder_with_a_kill_in_the_middle(folder: Path) -> None:
    status, data, errors = run(folder)
    assert status == 0, (data, errors)
    assert data["ok"] is True
    assert {kind: one["files"] for kind, one in data["plugins"].items()} == {
        "css": 30,
        "image": 9,
        "text": 30,
    }
    assert data["equal"] == 69
    assert data["kills"] == 1
    assert "SIGKILL to the image plugin" in errors
    assert sum(data["retried"].values()) >= 1
    assert data["reclaimed"] >= 1
    assert data["left_behind"] == []


@pytest.mark.parametrize("seed", [1, 2])
def test_many_kills_at_random_moments(folder: Path, seed: int) -> None:
    status, data, errors = run(folder, "--kills", 8, "--seed", seed)
    assert status == 0, (data, errors)
    assert data["kills"] == 8
    assert data["equal"] == 69


def test_without_a_kill_nothing_is_retried(folder: Path) -> None:
    status, data, errors = run(folder, "--kills", 0)
    assert status == 0, (data, errors)
    assert data["kills"] == data["reclaimed"] == sum(data["retried"].values()) == 0
    # Each file: its job, and for an image its pixels; each answered by STARTED and a result.
    sent = sum(one["sent"] for one in data["messages"].values())
    received = sum(one["received"] for one in data["messages"].values())
    assert sent == 69 + 9
    assert received == 2 * sent + 3


def test_its_own_files_fill_every_class_in_little_address_space() -> None:
    """The default run, shortened; a payload of more than 16 MiB within 1 GiB of addresses."""
    status, data, errors = run(
        "--files", 20, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (GIB, GIB))
    )
    assert status == 0, (data, errors)
    assert data["largest_payload"] > 16 << 20
    assert all(one["sent"] + one["received"] for one in data["messages"].values())
    assert data["hub_memory_peak"] <= jobs.MAX_BYTES


def test_a_named_hub_is_gone_afterwards(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "hub"
    status, data, errors = run(folder, "--path", path, "--files", 6)
    assert status == 0, (data, errors)
    assert not path.exists()


def test_the_table_is_for_people(folder: Path) -> None:
    done = subprocess.run([*DEMO, str(folder), "--files", "9"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\nall right\n")
    assert re.search(r"^image +\d+ ", done.stdout, re.MULTILINE)


# -- with what it is given -----------------------------------------------------------------------


def test_broken_files_are_refused_and_the_rest_is_done(folder: Path) -> None:
    good = (folder / "large.png").read_bytes()
    middle = len(good) // 2
    (folder / "cut.png").write_bytes(good[:-100])
    (folder / "flipped.png").write_bytes(
        good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
    )
    (folder / "empty.png").touch()
    (folder / "unclosed.css").write_text("a { b : 'c }")
    (folder / "\udcff\x1b.png").write_bytes(b"GIF89a")
    status, data, errors = run(folder)
    assert status == 0, (data, errors)
    assert data["plugins"]["image"]["files"] == 13
    assert data["plugins"]["image"]["refused"] == 4
    assert "wrong checksum of the IDAT chunk" in errors
    assert "\x1b" not in errors


def test_only_broken_files(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    status, data, errors = run(tmp_path)
    assert status == 0, (data, errors)
    assert data["plugins"]["image"]["refused"] == 1


@pytest.mark.parametrize("text", ["", "x", "x" * 241, "x" * 100_000])
def test_a_single_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "one.txt").write_text(text)
    status, data, errors = run(tmp_path)
    assert status == 0, (data, errors)
    assert data["equal"] == data["kills"] == 1


def test_nothing_to_work_on(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "program.exe").touch()
    for where, reason in (("folder", "no .css"), ("missing", "No such file")):
        status, data, errors = run(tmp_path / where)
        assert (status, data) == (2, {})
        assert reason in errors
        assert "Traceback" not in errors


@pytest.mark.parametrize("argument", ["--kills=-1", "--kills=x", "--files=0", "--nonsense"])
def test_wrong_usage(argument: str) -> None:
    status, _, errors = run(argument)
    assert status == 2
    assert argument.split("=")[0] in errors


def test_a_plugin_started_by_hand_says_what_is_missing() -> None:
    plugin = [sys.executable, "-m", "shmhub.demo.plugin_text"]
    for arguments, reason in (
        ([], "--doorbell-fd"),
        (["--hub-path=/dev/null", "--peer-id=1", "--doorbell-fd=0"], "not a socket"),
    ):
        done = subprocess.run(
            [*plugin, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr.startswith("text plugin: ")
        assert reason in done.stderr


def test_a_live_hub_at_the_path_is_left_alone(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "hub"
    with HubHost.create(path):
        status, data, _ = run(folder, "--path", path, "--files", 3)
        assert status == 1
        assert str(path) in data["problems"][0]
        assert data["left_behind"] == []
        assert path.exists()


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(tmp_path: Path, number: signal.Signals, expected: int) -> None:
    with subprocess.Popen(
        [*DEMO, "--kills", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stderr is not None
        pids = []
        for line in process.stderr:
            if found := re.search(r"plugin ready, pid (\d+)", line):
                pids.append(int(found[1]))
            if len(pids) == 3:
                break
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        errors = process.stderr.read()
    assert process.returncode == expected, errors
    assert "Traceback" not in errors
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not list(tmp_path.iterdir())


def test_the_host_killed_takes_its_plugins_with_it(folder: Path) -> None:
    with subprocess.Popen(
        [*DEMO, str(folder), "--kills", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        pids = []
        for line in process.stderr:
            if found := re.search(r"plugin ready, pid (\d+)", line):
                pids.append(int(found[1]))
            if len(pids) == 3:
                break
        process.kill()
        # The plugins hold the other end of that pipe: it ends when the last of them has.
        process.stderr.read()
    assert not [pid for pid in pids if pid in processes_named("shmhub.demo.plugin_")]


# -- with a runner of our own --------------------------------------------------------------------


def tasks_of(folder: Path) -> list[Task]:
    kinds = {".css": Kind.CSS, ".png": Kind.IMAGE, ".txt": Kind.TEXT}
    return [
        Task.of(Source(path, kinds[path.suffix], path.stat().st_size))
        for path in sorted(folder.iterdir())
    ]


def run_tasks(tasks: list[Task], say: Callable[[str], None] = lambda text: None) -> Tally:
    config = HubConfig(
        size_classes=tuple(SizeClass(*one) for one in HUB_CLASSES), max_peers=8, max_bytes=64 << 20
    )
    tally = Tally()
    with (
        HubHost.create(None, config) as host,
        Runner(host, tasks, KillPlan(tasks, 0), tally, lambda done: None, say) as runner,
    ):
        runner.run()
        runner.check_idle()
    return tally


@pytest.mark.parametrize(("victim", "times"), [("css", 1), ("image", 3), ("text", 5)])
def test_killed_from_outside(folder: Path, victim: str, times: int) -> None:
    """At once after it is ready, when its first jobs may be anywhere."""
    killed: list[int] = []

    def say(text: str) -> None:
        found = re.match(rf"{victim} plugin ready, pid (\d+)", text)
        if found and len(killed) < times:
            killed.append(int(found[1]))
            os.kill(killed[-1], signal.SIGKILL)

    tasks = tasks_of(folder)
    tally = run_tasks(tasks, say)
    assert tally.problems == []
    assert tally.kills_from_outside == times
    for task in tasks:
        assert task.outcome == jobs.run_here(task.source.kind, task.source.path.read_bytes())


def test_files_that_vanish_or_change_are_reported(folder: Path) -> None:
    tasks = tasks_of(folder)
    gone, grown = tasks[3].source.path, tasks[4].source.path
    gone.unlink()
    with grown.open("ab") as file:
        file.write(b" " * 1_000_000)
    tally = run_tasks(tasks)
    assert tally.problems == []
    assert tally.skipped == [(gone, "No such file or directory")]
    assert tasks[3].outcome is None
    assert tasks[4].outcome == jobs.run_here(tasks[4].source.kind, grown.read_bytes())


def test_a_plugin_that_cannot_start_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmhub.demo.crew.sys.executable", "/bin/false")
    with pytest.raises(DemoFailed, match="did not start, status 1"):
        run_tasks(tasks_of(folder))


def test_without_a_core_it_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def create(*arguments: object) -> NoReturn:
        raise UnsupportedPlatformError("no compiled core")

    monkeypatch.setattr(HubHost, "create", create)
    assert main([str(folder)]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "demo: no compiled core"


# -- it can fail ---------------------------------------------------------------------------------


def outcome_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    status = main([str(folder), "--json", "--kills", "0"])
    return status, json.loads(capsys.readouterr().out)


def test_a_wrong_result_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.css").write_text("a { }")
    other = jobs.Outcome(Status.DONE, 3, ("0" * 64,))
    monkeypatch.setattr(jobs, "run_here", lambda kind, data: other)
    status, data = outcome_of(tmp_path, capsys)
    assert status == 1
    assert len(data["problems"]) == 2
    assert "is not that of this process" in data["problems"][0]


def test_a_descriptor_left_open_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("text")
    left: list[int] = []
    compare = program._compare

    def careless(*arguments: Any) -> None:
        left.append(os.open(os.devnull, os.O_RDONLY))
        compare(*arguments)

    monkeypatch.setattr(program, "_compare", careless)
    try:
        status, data = outcome_of(tmp_path, capsys)
    finally:
        for descriptor in left:
            os.close(descriptor)
    assert status == 1
    assert data["left_behind"] == [f"descriptor of {os.devnull}"]


def test_a_slot_that_is_held_is_found(folder: Path) -> None:
    config = HubConfig(
        size_classes=tuple(SizeClass(*one) for one in HUB_CLASSES), max_peers=8, max_bytes=64 << 20
    )
    tally = Tally()
    tasks = tasks_of(folder)[:3]
    with (
        HubHost.create(None, config) as host,
        Runner(host, tasks, KillPlan(tasks, 0), tally, lambda done: None, print) as runner,
    ):
        runner.run()
        with runner._transport.alloc_nowait(10_000):
            runner.check_idle()
    assert len(tally.problems) == 1
    assert "1 slots of 16384 bytes are still in use" in tally.problems[0]
