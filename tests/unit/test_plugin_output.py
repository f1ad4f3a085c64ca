"""Lines that plugins write: to logging, to stderr, to the tail; never in the plugin's way."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator

import pytest

from shmhub.plugin._output import MAX_LINE, QUEUED_LINES, TAIL_LINES, Output, OutputPump
from tests.support.environment import PATIENCE
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("leak_check")


@pytest.fixture
def pump() -> Iterator[OutputPump]:
    made = OutputPump(echo=False)
    yield made
    made.close(PATIENCE)


def opened(pump: OutputPump, name: str = "image") -> Output:
    return pump.open(name, deque(maxlen=TAIL_LINES))


def finish(pump: OutputPump, output: Output) -> None:
    output.close_write_ends()
    done = threading.Event()
    pump.finish(output, done.set)
    assert done.wait(PATIENCE)


def messages(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    return [(one.name, one.getMessage(), one.stream) for one in caplog.records]  # type: ignore[attr-defined]


def test_lines_are_logged_with_name_and_stream(
    pump: OutputPump, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "shmhub.plugin")
    output = opened(pump)
    os.write(output.stdout_fd, b"one\ntw")
    os.write(output.stdout_fd, b"o\n")
    finish(pump, output)
    pump.close(PATIENCE)
    assert messages(caplog) == [
        ("shmhub.plugin.image", "one", "stdout"),
        ("shmhub.plugin.image", "two", "stdout"),
    ]


def test_the_tail_has_the_last_lines_of_stderr_and_an_unfinished_one(pump: OutputPump) -> None:
    output = opened(pump)
    os.write(output.stdout_fd, b"not this\n")
    os.write(output.stderr_fd, b"".join(b"line %d\n" % n for n in range(100)) + b"cut off")
    finish(pump, output)
    expected = [f"line {n}" for n in range(100 - TAIL_LINES + 1, 100)] + ["cut off"]
    assert list(output.tail) == expected


def test_a_line_without_end_arrives_in_pieces(pump: OutputPump) -> None:
    output = opened(pump)
    writer = threading.Thread(target=_write_all, args=(output.stderr_fd, b"x" * (MAX_LINE * 5)))
    writer.start()
    writer.join()
    finish(pump, output)
    assert max(len(line) for line in output.tail) <= MAX_LINE
    assert sum(len(line) for line in output.tail) == MAX_LINE * 5


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def test_control_characters_and_broken_text_cannot_play_with_a_terminal(pump: OutputPump) -> None:
    output = opened(pump)
    os.write(output.stderr_fd, b"\x1b[2J\x00\tbell\x07 \xff\xfe\r\n")
    finish(pump, output)
    assert list(output.tail) == ["\\x1b[2J\\x00\tbell\\x07 \\xff\\xfe"]


def test_echo_goes_behind_a_prefix_to_whatever_stderr_is(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = io.StringIO()
    monkeypatch.setattr(sys, "stderr", fake)
    pump = OutputPump(echo=True)
    output = opened(pump, "image/1")
    os.write(output.stdout_fd, b"hello\n")
    finish(pump, output)
    pump.close(PATIENCE)
    assert fake.getvalue() == "[image/1] hello\n"


class Stuck(io.StringIO):
    """A terminal that was stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.let_go = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.let_go.wait(PATIENCE)
        return super().write(text)


def test_a_flood_never_blocks_the_plugin_and_loses_lines_that_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck = Stuck()
    monkeypatch.setattr(sys, "stderr", stuck)
    pump = OutputPump(echo=True)
    output = opened(pump)
    total = QUEUED_LINES * 5
    flood = b"".join(b"%d\n" % n for n in range(total))
    writer = threading.Thread(target=_write_all, args=(output.stderr_fd, flood))
    writer.start()
    assert stuck.entered.wait(PATIENCE)
    writer.join(PATIENCE)  # nobody reads the terminal, and yet it can write it all
    assert not writer.is_alive()
    until(lambda: output.tail and output.tail[-1] == str(total - 1), "all to be read")
    stuck.let_go.set()
    finish(pump, output)
    pump.close(PATIENCE)
    shown = stuck.getvalue().splitlines()
    lost = [int(line.split("(")[1].split()[0]) for line in shown if "left out" in line]
    assert sum(lost) + len(shown) - len(lost) == total
    assert sum(lost) >= total - QUEUED_LINES * 2


def test_a_handler_that_raises_costs_its_line_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    pump = OutputPump(echo=False)
    output = opened(pump, "raising")
    seen: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())
            raise RuntimeError("this handler is broken")

    log = logging.getLogger("shmhub.plugin.raising")
    handler = Handler()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        os.write(output.stdout_fd, b"one\ntwo\n")
        finish(pump, output)
        pump.close(PATIENCE)
    finally:
        log.removeHandler(handler)
    assert seen == ["one", "two"]


def test_a_grandchild_that_keeps_the_pipe_open_holds_nobody_up(pump: OutputPump) -> None:
    output = opened(pump)
    kept = os.dup(output.stderr_fd)
    os.write(kept, b"last words\n")
    finish(pump, output)
    assert list(output.tail) == ["last words"]
    with pytest.raises(BrokenPipeError):
        os.write(kept, b"too late\n")
    os.close(kept)
