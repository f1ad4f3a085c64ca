"""A gate between a test and its plugins: who is inside, and when they may go on.

Two FIFOs, so that both sides wait for events and a killed process holds up nobody.
"""

from __future__ import annotations

import os
import select
from pathlib import Path

from tests.support.environment import PATIENCE


class Gate:
    """The test's side. Hand `gate.paths` to the plugin, which calls `pass_gate(*paths)`."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self.paths = [str(folder / f"{name}-{what}") for what in ("entered", "leave")]
        for path in self.paths:
            os.mkfifo(path)
        # Both ways, so that opening never waits for the other side.
        self._entered, self._leave = (os.open(path, os.O_RDWR) for path in self.paths)

    def wait_entered(self, count: int = 1) -> None:
        """Waits until so many more have entered."""
        poller = select.poll()
        poller.register(self._entered, select.POLLIN)
        for _ in range(count):
            if not poller.poll(PATIENCE * 1000):
                raise AssertionError(f"nobody has entered the gate within {PATIENCE} s")
            os.read(self._entered, 1)

    def let_go(self, count: int = 1) -> None:
        """Lets so many go on, now or when they come."""
        os.write(self._leave, b"." * count)

    def close(self) -> None:
        os.close(self._entered)
        os.close(self._leave)


def pass_gate(entered: str, leave: str) -> None:
    """The plugin's side: says that it is there, and waits."""
    for path, flags, use in (
        (entered, os.O_WRONLY, lambda fd: os.write(fd, b".")),
        (leave, os.O_RDONLY, lambda fd: os.read(fd, 1)),
    ):
        fd = os.open(path, flags)
        try:
            use(fd)
        finally:
            os.close(fd)
