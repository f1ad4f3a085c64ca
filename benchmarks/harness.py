"""Rounds in turns, medians and p99.

Knows nothing of shmhub nor of any contender: a bench turns links (see `sides`) into `Case`s, and
`in_turns` measures them.
"""

from __future__ import annotations

import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .sides import BenchmarkError, Desk, Link

BATCH_SECONDS = 0.12
SINGLES = 400


@dataclass
class Series:
    """One contender's figures: nanoseconds an operation, a value a round, and single operations."""

    rounds: list[float] = field(default_factory=list)
    singles: list[int] = field(default_factory=list)
    stopped: str = ""
    """Why it was left out of further rounds."""

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median: how far to trust the median."""
        return (max(self.rounds) - min(self.rounds)) / self.median if self.median else 0.0

    @property
    def p99(self) -> float | None:
        """Of single operations, the timer's own 50 to 100 ns included; None if none were timed."""
        if not self.singles:
            return None
        ordered = sorted(self.singles)
        return float(ordered[min(len(ordered) - 1, math.ceil(len(ordered) * 0.99) - 1)])


@dataclass(frozen=True)
class Case:
    """One contender in one question. `batch` gives ns an operation, `singles` a list of ns."""

    name: str
    batch: Callable[[], float]
    singles: Callable[[], list[int]] | None = None


def in_turns(cases: Sequence[Case], rounds: int, *, leave_out: bool = False) -> dict[str, Series]:
    """Measure every case once a round, the order turned round each time; one round is thrown away.

    So a disturbance of some seconds touches one round of each contender, not all rounds of one.
    One that fails keeps the figures of the rounds before and says why it stopped. Without any it
    ends the whole; with `leave_out` it is left out alone, and a demand that needs it is a miss.
    """
    result = {case.name: Series() for case in cases}
    for number in range(-1, rounds):
        for case in cases if number % 2 == 0 else reversed(cases):
            series = result[case.name]
            if series.stopped:
                continue
            gc.collect()
            try:
                nanoseconds = case.batch()
                singles = case.singles() if case.singles else []
            except BenchmarkError as error:
                series.stopped = f"stopped in round {number + 1} of {rounds}: {error}"
                continue
            if number >= 0:
                series.rounds.append(nanoseconds)
                series.singles.extend(singles)
    for name, series in list(result.items()):
        if not series.rounds:
            if not leave_out:
                raise BenchmarkError(f"{name}: {series.stopped}")
            print(f"left out: {name}: {series.stopped}", file=sys.stderr)
            del result[name]
    return result


def timed_loop(operation: Callable[[int], object], seconds: float = BATCH_SECONDS) -> float:
    """ns an iteration of `operation(count)`, with a count that takes about `seconds`."""
    count = 1
    while True:
        begin = time.perf_counter_ns()
        operation(count)
        elapsed = time.perf_counter_ns() - begin
        if elapsed >= seconds * 1e9 / 2:
            return elapsed / count
        count = max(count * 2, min(count * 100, int(count * seconds * 1e9 / max(elapsed, 1))))


# ---------------------------------------------------------------- links as cases


def sized(once: Callable[[int], float], seconds: float, at: int) -> Callable[[], float]:
    """A batch of about `seconds`: how many operations that is, the first call finds out."""
    count = 0

    def batch() -> float:
        nonlocal count
        if not count:
            once(at)
            count = max(at, int(seconds * 1e9 / max(once(at), 1.0)))
        return once(count)

    return batch


def echo_case(
    name: str,
    link: Link,
    near: dict[str, Any],
    *,
    verb: str = "echo",
    far: dict[str, Any] | None = None,
    seconds: float = BATCH_SECONDS,
    singles: int = SINGLES,
    at: int = 50,
) -> Case:
    """Round trips, in batches for the median and one by one for the p99."""
    there = far or {}

    def once(count: int) -> float:
        return link.run(verb, count, near, there, warm=min(count, 50))

    def one_by_one() -> list[int]:
        return link.singles(verb, singles, near, there)

    return Case(name, sized(once, seconds, at), one_by_one if singles else None)


def pour_case(
    name: str,
    link: Link,
    near: dict[str, Any],
    *,
    verb: str = "one_way",
    far: dict[str, Any] | None = None,
    seconds: float = BATCH_SECONDS,
    at: int = 2048,
) -> Case:
    """One way as fast as it goes; ns a message."""
    there = far or {}
    return Case(name, sized(lambda count: link.pour(verb, count, near, there), seconds, at), None)


def near_case(name: str, operation: Callable[[int], object], seconds: float) -> Case:
    """Something that one side does alone: `operation(count)`."""
    return Case(name, lambda: timed_loop(operation, seconds))


def swap_case(name: str, link: Link, size: int, count: int) -> Case:
    """Written and read on both sides: `count` round trips a batch, every byte checked."""
    desk = Desk(size, near=True)
    return Case(name, lambda: link.swap(count, desk, warm=1), None)


# ---------------------------------------------------------------- how long to measure


@dataclass(frozen=True)
class Plan:
    """How much to measure; `quick` is for trying a change, not for figures to quote."""

    rounds: int = 9
    seconds: float = BATCH_SECONDS
    singles: int = SINGLES
    idle_seconds: float = 5.0
    kills: int = 300
    """Processes killed for each figure of `bench_recovery`."""
    patience: float = 0.0
    """Seconds to wait for a quiet machine before each question."""
    rows: tuple[str, ...] = ()
    """Those of the question that are asked for; empty: all."""

    def wants(self, row: str) -> bool:
        """For a question whose rows are measured apart from each other."""
        return not self.rows or row in self.rows

    @classmethod
    def quick(cls) -> Plan:
        return cls(rounds=3, seconds=0.05, singles=200, idle_seconds=1.0, kills=20)
