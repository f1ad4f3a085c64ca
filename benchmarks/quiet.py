"""How much of the machine others used while something was measured.

The kernel's total of busy time less what this process and its ended children took. A contender's
children have ended when its question is answered, so ask before and after a whole question.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

DISTURBED = 0.03
"""Others' share of all cores above which figures should not be quoted."""


def _busy_seconds() -> float:
    """Of all cores since boot: user, nice, system, irq, softirq (not idle, iowait, steal)."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    ticks = [int(field) for field in fields]
    return sum(ticks[index] for index in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


def _our_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@dataclass(frozen=True)
class Moment:
    """A point in time to compare with a later one."""

    clock: float
    busy: float
    ours: float

    @classmethod
    def now(cls) -> Moment:
        return cls(time.monotonic(), _busy_seconds(), _our_seconds())

    def others_since(self) -> float:
        """Others' share of all cores from this moment to now, 0 to 1."""
        now = self.now()
        available = (now.clock - self.clock) * (os.cpu_count() or 1)
        theirs = (now.busy - self.busy) - (now.ours - self.ours)
        return max(0.0, min(1.0, theirs / available)) if available > 0 else 0.0


def wait_until_quiet(patience: float, window: float = 1.0) -> bool:
    """Look at windows of a second until others leave the cores alone, for at most `patience`."""
    give_up = time.monotonic() + patience
    while time.monotonic() < give_up:
        before = Moment.now()
        time.sleep(window)  # the interval that is looked at
        if before.others_since() < DISTURBED:
            return True
    return False
