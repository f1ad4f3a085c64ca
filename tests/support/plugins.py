"""Plugin hosts for tests: where the programs are, how to write one, what is waited for."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shmhub
from tests.support.environment import PATIENCE, ROOT
from tests.support.waiting import until

PROGRAMS = Path(__file__).with_name("programs")
ZOO = str(PROGRAMS / "zoo.py")


class Events:
    """`on_event` of a host under test."""

    def __init__(self) -> None:
        self.seen: list[shmhub.PluginEvent] = []

    def __call__(self, event: shmhub.PluginEvent) -> None:
        self.seen.append(event)

    @property
    def kinds(self) -> list[str]:
        return [one.kind for one in self.seen]

    def wait(self, kind: str, count: int = 1) -> shmhub.PluginEvent:
        """The `count`-th event of that kind."""

        def found() -> list[shmhub.PluginEvent] | None:
            those = [one for one in self.seen if one.kind == kind]
            return those if len(those) >= count else None

        those = until(found, f"{count} x {kind!r} among {self.kinds}")
        assert those is not None
        return those[count - 1]


def host_with(**options: Any) -> shmhub.PluginHost:
    options.setdefault("echo", False)
    return shmhub.PluginHost(**options)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def host(leak_check: None, events: Events) -> Iterator[shmhub.PluginHost]:
    made = host_with(on_event=events)
    try:
        yield made
    finally:
        made.close(timeout=0)


def write_plugin(folder: Path, body: str, name: str = "written") -> str:
    """A plugin file with `body`; the path."""
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(body))
    return str(path)


def has_ended(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return text.rpartition(")")[2].split()[0] in "ZX"


def wait_ended(*pids: int) -> None:
    """Waits for processes, of anybody, to end."""
    for pid in pids:
        until(lambda pid=pid: has_ended(pid), f"process {pid} to end")  # type: ignore[misc]


def run_program(code: str, *arguments: str, timeout: float = PATIENCE * 2) -> Any:
    """Runs Python code in a process of its own, with `tests` importable."""
    import subprocess

    prelude = f"import sys; sys.path.append({str(ROOT)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
