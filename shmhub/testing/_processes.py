"""Descriptors, mappings and processes of this program, as /proc shows them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator

__all__ = [
    "children",
    "command_of",
    "descriptors",
    "hub_mappings",
    "is_over",
    "is_stopped",
    "kill",
    "until",
]

PAUSE = 0.002


def until(condition: Callable[[], bool], patience: float) -> bool:
    """Wait for what tells nobody that it has happened; False: not within `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


def descriptors() -> dict[int, str]:
    """Open descriptors of this process and what they refer to, but for this very look."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if not target.startswith("/proc/"):
                found[int(name)] = target
    return found


def hub_mappings() -> Counter[str]:
    """Shared mappings of this process that are, or may be, hubs: memfds and files in /dev/shm."""
    names: Counter[str] = Counter()
    with open("/proc/self/maps") as file:
        for line in file:
            parts = line.rstrip("\n").split(maxsplit=5)
            if len(parts) == 6 and parts[1].endswith("s"):
                names[parts[5]] += 1
    return names


def children() -> dict[int, str]:
    """Direct children of this process, by start time as well: pids are used again.

    One that has ended and that nobody has waited for is still there.
    """
    own = os.getpid()
    return {pid: started for pid, parent, started in _all_processes() if parent == own}


def _all_processes() -> Iterator[tuple[int, int, str]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(int(name))
            if fields is not None:
                yield int(name), int(fields[1]), fields[19]


def _stat(pid: int, task: int | None = None) -> list[str] | None:
    """What /proc says behind the name: state, parent, ...; None: there is none of that pid."""
    folder = f"/proc/{pid}" if task is None else f"/proc/{pid}/task/{task}"
    try:
        with open(f"{folder}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_over(pid: int) -> bool:
    """Has it ended, reaped or not?"""
    fields = _stat(pid)
    return fields is None or fields[0] in "ZX"


def is_stopped(pid: int) -> bool:
    """Does no thread of it run any more: stopped, or over?"""
    try:
        tasks = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return True
    states = [_stat(pid, task) for task in tasks]
    return all(fields is None or fields[0] in "TtZX" for fields in states)


def command_of(pid: int) -> str:
    """Its command line, for people."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().rstrip(b"\0").split(b"\0")
    except OSError:
        return "gone meanwhile"
    text = " ".join(word.decode(errors="replace") for word in words)
    if not text:
        return "ended, and nobody has waited for it"
    return text if len(text) <= 200 else f"{text[:197]}..."


def kill(pid: int) -> None:
    """End a child of this process, and collect it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
