"""What crossing between processes costs: CPU time of a build beyond that of plain calls.

Each round builds the same pictures in each mode, in another order each time; measured are user and
system time of this process and of all those that work for it, from after their start until the
site is there.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from examples.site.build import Settings, build
from examples.site.compare import differences
from examples.site.executors import MODES, Executor, open_executor

__all__ = ["Measured", "compare_modes", "process_seconds"]

BASE: Final = "serial"


@dataclass
class Measured:
    """CPU seconds of each round by mode, and whether all modes gave the same site."""

    pictures: int
    replicas: int
    seconds: dict[str, list[float]] = field(default_factory=lambda: {mode: [] for mode in MODES})
    wall: dict[str, list[float]] = field(default_factory=lambda: {mode: [] for mode in MODES})
    differences: list[str] = field(default_factory=list)

    def beyond(self, mode: str) -> float:
        """Median over the rounds of what ``mode`` took beyond `serial` in the same round."""
        rounds = zip(self.seconds[mode], self.seconds[BASE], strict=True)
        return statistics.median(ours - base for ours, base in rounds)

    @property
    def ratio(self) -> float:
        """What of the pool's extra CPU time the hub takes."""
        return self.beyond("hub") / self.beyond("pool")

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``; seconds."""
        return {
            "pictures": self.pictures,
            "replicas": self.replicas,
            "cpu_seconds": self.seconds,
            "wall_seconds": self.wall,
            "median_cpu_seconds": {m: statistics.median(self.seconds[m]) for m in MODES},
            "median_beyond_serial": {m: self.beyond(m) for m in MODES if m != BASE},
            "hub_of_pool": self.ratio,
            "identical": not self.differences,
        }

    def lines(self) -> Iterable[str]:
        """For people."""
        yield f"{self.pictures} pictures, {len(self.seconds[BASE])} rounds, CPU time in seconds:"
        for mode in sorted(MODES, key=lambda mode: self.beyond(mode)):
            all_rounds = " ".join(f"{one:.2f}" for one in self.seconds[mode])
            yield (
                f"  {mode:6} median {statistics.median(self.seconds[mode]):7.2f}"
                f"  beyond {BASE} {self.beyond(mode):+7.3f}  ({all_rounds})"
            )
        yield f"  hub / pool, beyond {BASE}: {self.ratio:.3f} (asked: <= {1 / 6:.3f})"
        yield from (f"  NOT IDENTICAL: {line}" for line in self.differences)


def compare_modes(
    pictures: Path, scratch: Path, *, rounds: int, replicas: int, settings: Settings
) -> Measured:
    """Builds ``pictures`` in every mode, ``rounds`` times, below ``scratch``.

    ``RuntimeError`` if a build fails: then there is nothing to compare.
    """
    measured = Measured(sum(1 for one in pictures.iterdir() if one.is_file()), replicas)
    for number in range(rounds):
        for mode in MODES[number % len(MODES) :] + MODES[: number % len(MODES)]:
            out = scratch / mode
            shutil.rmtree(out, ignore_errors=True)
            with open_executor(mode, replicas) as executor:
                _warm_up(executor, scratch)
                cpu, wall = _cpu(executor), time.monotonic()
                report = build(pictures, out, executor, settings, _Silent())
                measured.seconds[mode].append(_cpu(executor) - cpu)
                measured.wall[mode].append(time.monotonic() - wall)
            if report.failed:
                raise RuntimeError(f"building in mode {mode}: {report.failed}")
            print(f"round {number + 1}, {mode}: {measured.seconds[mode][-1]:.2f}", file=sys.stderr)
        for mode in MODES:
            if mode != BASE:
                measured.differences += differences(scratch / BASE, scratch / mode)
    return measured


def process_seconds(pids: Sequence[int]) -> float:
    """User and system time of whole processes so far, in seconds, to the nanosecond."""
    # clock_getcpuclockid(3): the complement of the pid, then which clock: 2 is user + system.
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids) / 1e9


def _cpu(executor: Executor) -> float:
    return process_seconds([os.getpid(), *executor.pids])


def _warm_up(executor: Executor, scratch: Path) -> None:
    """One small picture, so that nothing is loaded for the first time while the clock runs."""
    from examples.site.pictures import make_pictures

    small = scratch / "warm-up"
    make_pictures(small, 2 * executor.lanes, 0.05)
    out = scratch / "warm-up-site"
    shutil.rmtree(out, ignore_errors=True)
    build(small, out, executor, Settings("warm-up"), _Silent())


class _Silent:
    def begin(self, kind: str, total: int) -> None:
        pass

    def step(self, kind: str, place: str, outcome: str) -> None:
        pass
