"""How far a build is: a line that is rewritten on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import threading
import time
from typing import Final, TextIO

__all__ = ["Progress"]

_REDRAW: Final = 0.1  # seconds
_BAR: Final = 24


class Progress:
    """Shows the steps of a build on ``stream``. Safe from several threads."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream = stream
        self._live = stream.isatty() and not quiet
        self._quiet = quiet
        self._lock = threading.RLock()
        self._kind, self._total, self._done = "", 0, 0
        self._now = ""
        self.counts: dict[str, int] = {}
        self._drawn_at, self._drawn = 0.0, False

    def begin(self, kind: str, total: int) -> None:
        with self._lock:
            self._kind, self._total, self._done, self._now = kind, total, 0, ""
            if total and not self._live and not self._quiet:
                self._line(f"{kind}: {total}")

    def step(self, kind: str, place: str, outcome: str) -> None:
        with self._lock:
            self._done += kind == self._kind
            self._now = place
            if outcome not in ("built", "unchanged"):
                self.say(f"{place}: {outcome}")
            last = self._done >= self._total
            if self._live and (last or time.monotonic() - self._drawn_at >= _REDRAW):
                self._draw()

    def count(self, what: str) -> None:
        """Counts something beside the work, shown at the end of the line: "killed"."""
        with self._lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def say(self, text: str) -> None:
        """A line that stays."""
        with self._lock:
            self.end()
            self._line(text)

    def end(self) -> None:
        with self._lock:
            if self._drawn:
                self._stream.write("\r\x1b[K")
                self._stream.flush()
                self._drawn = False

    def _draw(self) -> None:
        done = min(self._done, self._total)
        filled = _BAR * done // self._total if self._total else _BAR
        notes = "".join(f"  {number} {what}" for what, number in self.counts.items())
        bar = "#" * filled + "." * (_BAR - filled)
        text = f"{self._kind:6}[{bar}] {done}/{self._total}{notes}  {self._now}"
        self._stream.write("\r\x1b[K" + _printable(text)[: self._columns() - 1])
        self._stream.flush()
        self._drawn, self._drawn_at = True, time.monotonic()

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def _line(self, text: str) -> None:
        self._stream.write(_printable(text) + "\n")
        self._stream.flush()


def _printable(text: str) -> str:
    """File names may hold anything, control codes included."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
