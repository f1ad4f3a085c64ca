"""Waiting for what tells nobody that it has happened.

Where there is an event (an answer, a doorbell, a pidfd) tests wait for that; these bounded loops
are for the rest: counters of a hub, the state of another process's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.support.environment import PATIENCE

T = TypeVar("T")
_PAUSE = 0.002
# A thread counts as asleep when it was seen so this often in a row without having run in between.
_SIGHTINGS = 6


def until(condition: Callable[[], T], what: str, *, patience: float = PATIENCE) -> T:
    """The first true value of ``condition``; AssertionError after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience} s for {what}; last value: {value!r}")
        time.sleep(_PAUSE)


def until_equal(read: Callable[[], T], expected: T, what: str, *, patience: float = PATIENCE) -> T:
    """Waits until ``read()`` equals ``expected``; the failure shows both."""
    deadline = time.monotonic() + patience
    while True:
        value = read()
        if value == expected:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(
                f"waited {patience} s for {what}: {value!r}, expected {expected!r}"
            )
        time.sleep(_PAUSE)


def _thread_activity(pid: int, tid: int) -> tuple[str, str]:
    """(scheduler state, a text that changes whenever the thread has run)."""
    folder = Path(f"/proc/{pid}/task/{tid}")
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    switches = [
        line for line in (folder / "status").read_text().splitlines() if "ctxt_switches" in line
    ]
    return fields[0], f"{fields[11]} {fields[12]} {switches}"


def wait_asleep(pid: int, tid: int, *, give_up: Callable[[], bool] = lambda: False) -> None:
    """Waits until the thread sleeps and keeps sleeping; returns early when ``give_up()``."""
    seen = 0
    last = ""

    def asleep() -> bool:
        nonlocal seen, last
        if give_up():
            return True
        state, activity = _thread_activity(pid, tid)
        seen = seen + 1 if state == "S" and activity == last else 0
        last = activity
        return seen >= _SIGHTINGS

    until(asleep, f"thread {tid} of process {pid} to fall asleep")
