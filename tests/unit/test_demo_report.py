"""What the demo shows: progress on terminals and in logs, the table, what was left behind."""

from __future__ import annotations

import io
import json
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shmhub.demo import report
from shmhub.demo.jobs import HUB_CLASSES, Kind
from shmhub.demo.leftovers import Holdings
from shmhub.demo.progress import Progress, printable
from shmhub.demo.tally import KindTally, Tally


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# -- progress ------------------------------------------------------------------------------------


def test_a_log_gets_plain_lines_and_few_of_them() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.begin("working", 100)
    for done in range(101):
        progress.update(done)
    progress.say("news")
    progress.end()
    text = stream.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    assert text.splitlines() == [
        "working: 100 files",
        "working: 25 of 100",
        "working: 50 of 100",
        "working: 75 of 100",
        "working: 100 of 100",
        "news",
    ]


def test_a_terminal_gets_one_line_that_news_pass() -> None:
    stream = Terminal()
    progress = Progress(stream)
    progress.begin("working", 2)
    progress.update(1)
    progress.say("news")
    progress.update(2)
    progress.end()
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "\r\x1b[Knews\n" in text
    assert "] 2/2" in text
    assert text.endswith("\r\x1b[K")


def test_nothing_to_do_is_no_division_by_zero() -> None:
    for stream in (io.StringIO(), Terminal()):
        progress = Progress(stream)
        progress.begin("working", 0)
        progress.update(0)
        progress.end()


def test_file_names_cannot_write_to_the_terminal_what_they_like() -> None:
    stream = io.StringIO()
    Progress(stream).say("a\x1b[2Jb\nc\udcffd")
    assert stream.getvalue() == "a\\x1b[2Jb\\nc\\udcffd\n"
    ascii_stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert printable("\u00e9\n", ascii_stream) == "\\xe9\n"


# -- the table -----------------------------------------------------------------------------------


@pytest.fixture
def tally() -> Tally:
    tally = Tally(memory_peak=50 << 20, kills=1, reclaimed=2, never_received=3, may_have_run=1)
    tally.kinds[Kind.CSS] = KindTally(files=4, bytes_in=2048, bytes_out=1024, seconds=1.25)
    tally.kinds[Kind.IMAGE] = KindTally(files=2, refused=1, bytes_in=3 << 20, bytes_out=1 << 20)
    tally.classes[5].sent = 7
    tally.inline.received = 9
    tally.high_water = [1, 2, 3, 4, 5, 6]
    tally.equal = 6
    return tally


def test_the_table_has_all_that_was_asked_for(tally: Tally) -> None:
    text = report.render(tally, [])
    lines = text.splitlines()
    rows = {line.split("  ")[0]: line.split() for line in lines}
    assert rows["css"][1:] == [
        "4",
        "0",
        "2.0",
        "KiB",
        "1.0",
        "KiB",
        "50.0",
        "%",
        "1.25",
        "s",
        "0.00",
        "s",
    ]
    assert rows["together"][1:3] == ["6", "1"]
    assert rows["64 MiB"] == ["64", "MiB", "7", "0", "6"]
    assert rows["the ring"] == ["the", "ring", "0", "9"]
    assert "50.0 MiB at most" in text
    assert "reclaimed     2 slots" in text
    assert "retried       4 jobs: 3 never received, 1 that may have run" in text
    assert lines[-1] == "all right"


def test_what_is_wrong_is_said(tally: Tally) -> None:
    tally.problems.append("something")
    text = report.render(tally, ["file /x"])
    assert "WRONG         something" in text
    assert "LEFT BEHIND   file /x" in text
    assert text.splitlines()[-1] == "FAILED"
    tally.problems.clear()
    assert report.render(tally, ["file /x"]).splitlines()[-1] == "FAILED"


def test_many_skipped_files_are_summed_up(tally: Tally) -> None:
    tally.skipped += [(Path(f"/{number}"), "why") for number in range(30)]
    text = report.render(tally, [])
    assert text.count("skipped ") == 8
    assert "and 22 more" in text


def test_json_says_the_same(tally: Tally) -> None:
    data = json.loads(json.dumps(report.as_json(tally, [])))
    assert data["ok"] is True
    assert data["plugins"]["image"]["refused"] == 1
    assert data["messages"]["67108864"] == {"sent": 7, "received": 0}
    assert len(data["messages"]) == len(HUB_CLASSES) + 1
    assert report.as_json(tally, ["file /x"])["ok"] is False


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (150 << 10, "150 KiB"),
        (17 << 20, "17.0 MiB"),
        (3 << 30, "3.0 GiB"),
    ],
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert report.size_text(size) == text


# -- what was left behind ------------------------------------------------------------------------


def test_nothing_is_nothing() -> None:
    before = Holdings.now()
    assert Holdings.now().new_since(before) == []


def test_a_child_is_found_even_a_dead_one() -> None:
    before = Holdings.now()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert f"child process {child.pid}" in Holdings.now().new_since(before)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert f"child process {child.pid}" in Holdings.now().new_since(before)
    assert Holdings.now().new_since(before) == []


def test_a_descriptor_a_thread_and_a_mapping_are_found(tmp_path: Path) -> None:
    before = Holdings.now()
    file = tmp_path / "mapped"
    file.write_bytes(bytes(mmap.PAGESIZE))
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    descriptor = os.open(file, os.O_RDWR)
    try:
        with mmap.mmap(descriptor, mmap.PAGESIZE):
            found = Holdings.now().new_since(before)
    finally:
        os.close(descriptor)
        done.set()
        thread.join()
    assert f"mapping of {file}" in found
    assert f"descriptor of {file}" in found
    assert f"thread {thread.native_id}" in found


def test_a_second_descriptor_of_the_same_file_is_found() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    before = Holdings.now()
    second = os.dup(null)
    try:
        assert Holdings.now().new_since(before) == [f"descriptor of {os.devnull}"]
    finally:
        os.close(second)
        os.close(null)
