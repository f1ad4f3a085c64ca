"""What plugins write to their standard output and error: to logging, to the host, to errors.

Two threads for all plugins. One reads whatever comes, as fast as it comes, and cuts it into lines;
the other hands the lines on. Between them is a queue with a limit: a plugin that floods, or a
terminal or log handler that is slow, costs lines (which are counted), never memory, and never holds
a plugin back. Knows nothing of processes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import sys
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Output", "OutputPump"]

MAX_LINE = 4096  # bytes; what is longer arrives in pieces
TAIL_LINES = 40
QUEUED_LINES = 2000
_READ_BYTES = 1 << 16
# A process that has ended may leave this much in its pipe; a grandchild may write for ever.
_LAST_READS = 64


class Output:
    """The two streams of one life of a plugin.

    Attributes:
        stdout_fd, stderr_fd: the ends to write to: hand them to the process, then
            `close_write_ends`.
    """

    def __init__(self, name: str, tail: deque[str]) -> None:
        self.name = name
        self.tail = tail
        self.lost = 0
        self._streams: list[_Stream] = []
        try:
            for is_error in (False, True):
                self._streams.append(_Stream(self, is_error))
        except OSError:
            self.close_write_ends()
            for stream in self._streams:
                os.close(stream.read_fd)
            raise

    @property
    def stdout_fd(self) -> int:
        return self._streams[0].write_fd

    @property
    def stderr_fd(self) -> int:
        return self._streams[1].write_fd

    @property
    def streams(self) -> tuple[_Stream, ...]:
        return tuple(self._streams)

    def close_write_ends(self) -> None:
        """Close them here: else their end is never seen."""
        for stream in self._streams:
            if stream.write_fd >= 0:
                os.close(stream.write_fd)
                stream.write_fd = -1


class _Stream:
    """One pipe and the line that is not complete yet. The pump's reader uses it."""

    def __init__(self, output: Output, is_error: bool) -> None:
        self.output = output
        self.is_error = is_error
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.read_fd, False)
        self._rest = b""

    def take(self, data: bytes) -> list[str]:
        """The lines that are complete now."""
        *lines, rest = (self._rest + data).split(b"\n")
        while len(rest) > MAX_LINE:
            lines.append(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._rest = rest
        found: list[str] = []
        for line in lines:
            starts = range(0, len(line) or 1, MAX_LINE)
            found.extend(_text(line[at : at + MAX_LINE]) for at in starts)
        return found

    def take_rest(self) -> list[str]:
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _text(line: bytes) -> str:
    """As text that can be shown: no control characters that would play with a terminal."""
    text = line.rstrip(b"\r").decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\t" else ascii(one)[1:-1] for one in text)


class OutputPump:
    """Reads all outputs of one plugin host and hands the lines on. Safe from several threads.

    Args:
        echo: also write each line to this process's standard error, behind "[plugin] ".
    """

    def __init__(self, *, echo: bool = True) -> None:
        self._echo = echo
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._commands: deque[Callable[[], None]] = deque()
        self._closing = False
        self._open: set[_Stream] = set()
        self._lock = threading.Lock()  # of _closing and _wake
        self._lines: deque[tuple[Output, bool, str]] = deque()
        self._changed = threading.Condition()
        self._read_out = False
        self._handing_on = threading.Event()
        self._emitter = threading.Thread(
            target=self._hand_on, name="shmhub plugin output", daemon=True
        )
        self._reader = threading.Thread(
            target=self._read, name="shmhub plugin output reader", daemon=True
        )
        self._emitter.start()
        self._reader.start()

    def open(self, name: str, tail: deque[str]) -> Output:
        """Two pipes that are read from now on.

        Args:
            name: for the logger (`shmhub.plugin.NAME`) and the prefix.
            tail: gets the last lines of standard error.
        """
        output = Output(name, tail)
        self._command(lambda: self._register(output))
        return output

    def finish(self, output: Output, then: Callable[[], None]) -> None:
        """The process has ended: read what is left, close the pipes, call `then` in the reader."""
        self._command(lambda: self._finish(output, then))

    def close(self, timeout: float) -> None:
        """Read what is there, hand it on, end. Waits up to `timeout` seconds for handlers."""
        with self._lock:
            if not self._closing:
                self._closing = True
                os.eventfd_write(self._wake, 1)
        self._reader.join()
        if threading.current_thread() is not self._emitter:
            self._emitter.join(timeout)

    # The reader

    def _command(self, command: Callable[[], None]) -> None:
        with self._lock:
            if not self._closing:
                self._commands.append(command)
                os.eventfd_write(self._wake, 1)
                return
        command()  # the reader is on its way out

    def _register(self, output: Output) -> None:
        for stream in output.streams:
            self._selector.register(stream.read_fd, selectors.EVENT_READ, stream)
            self._open.add(stream)

    def _finish(self, output: Output, then: Callable[[], None]) -> None:
        for stream in output.streams:
            if stream in self._open:
                for _ in range(_LAST_READS):
                    if not self._read_once(stream):
                        break
                self._close(stream)
        then()

    def _read(self) -> None:
        while True:
            for key, _ in self._selector.select():
                stream = key.data
                if stream is None:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake)
                elif stream in self._open and self._read_once(stream) is None:
                    self._close(stream)
            while self._commands:
                self._commands.popleft()()
            if self._closing and not self._commands:
                break
        for stream in list(self._open):
            self._read_once(stream)
            self._close(stream)
        with self._lock:
            self._selector.close()
            os.close(self._wake)
        with self._changed:
            self._read_out = True
            self._changed.notify()

    def _read_once(self, stream: _Stream) -> bool | None:
        """True: something came, False: nothing is there, None: nothing will come any more."""
        try:
            data = os.read(stream.read_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return None
        if not data:
            return None
        self._queue(stream, stream.take(data))
        return True

    def _close(self, stream: _Stream) -> None:
        self._queue(stream, stream.take_rest())
        self._open.discard(stream)
        self._selector.unregister(stream.read_fd)
        os.close(stream.read_fd)

    def _queue(self, stream: _Stream, lines: list[str]) -> None:
        if not lines:
            return
        output = stream.output
        if stream.is_error:
            output.tail.extend(lines)
        room = QUEUED_LINES - len(self._lines)
        with self._changed:
            self._lines.extend((output, stream.is_error, line) for line in lines[:room])
            output.lost += max(0, len(lines) - room)
            self._changed.notify()

    # The emitter

    def _hand_on(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._read_out:
                    self._changed.wait()
                if not self._lines:
                    return
                output, is_error, line = self._lines.popleft()
                lost, output.lost = output.lost, 0
            if lost:
                note = f"({lost} lines of {output.name} were left out: they came too fast)"
                self._emit(output.name, True, note)
            self._emit(output.name, is_error, line)

    def _emit(self, name: str, is_error: bool, line: str) -> None:
        log = logging.getLogger(f"shmhub.plugin.{name}")
        try:
            log.info("%s", line, extra={"stream": "stderr" if is_error else "stdout"})
        except Exception as error:  # a handler that raises costs one line, not all that follow
            _write(f"[shmhub] a handler of {log.name} raised {error!r}\n")
        if self._echo:
            _write(f"[{name}] {line}\n")


def _write(text: str) -> None:
    stream = sys.stderr  # whatever it is by now: pytest and Jupyter replace it
    with contextlib.suppress(Exception):
        if stream is not None:
            stream.write(text)
            stream.flush()
