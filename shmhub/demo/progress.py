"""How far the demo is: one line that is rewritten on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import time
from typing import Final, TextIO

__all__ = ["Progress", "printable"]

_REDRAW: Final = 0.1
_PLAIN_STEPS: Final = 4
_BAR: Final = 28


def printable(text: str, stream: TextIO) -> str:
    """`text` as `stream` can write it: file names may hold anything, control codes included."""
    shown = "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in text
    )
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


class Progress:
    """Shows a phase's progress on `stream` and lets lines of news pass above it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tty = stream.isatty()
        self._phase = ""
        self._total = 0
        self._drawn_at = 0.0
        self._drawn = False
        self._steps_told = 0

    def begin(self, phase: str, total: int) -> None:
        self.end()
        self._phase, self._total, self._steps_told = phase, total, 0
        if not self._tty:
            self._line(f"{phase}: {total} files")

    def update(self, done: int) -> None:
        if self._tty:
            now = time.monotonic()
            if now - self._drawn_at >= _REDRAW or done >= self._total:
                self._drawn_at = now
                self._draw(done)
            return
        step = done * _PLAIN_STEPS // self._total if self._total else 0
        if step > self._steps_told:
            self._steps_told = step
            self._line(f"{self._phase}: {done} of {self._total}")

    def say(self, text: str) -> None:
        self._erase()
        self._line(text)

    def end(self) -> None:
        self._erase()

    def _draw(self, done: int) -> None:
        filled = _BAR * done // self._total if self._total else _BAR
        text = f"{self._phase} [{'#' * filled}{'.' * (_BAR - filled)}] {done}/{self._total}"
        self._stream.write("\r\x1b[K" + text[: self._columns() - 1])
        self._stream.flush()
        self._drawn = True

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False

    def _line(self, text: str) -> None:
        self._stream.write(printable(text.replace("\n", "\\n"), self._stream) + "\n")
        self._stream.flush()
