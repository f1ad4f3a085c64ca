"""Rows, their verdicts, and how they are shown: table, JSON, machine.

A row answers one line of the table "Must be shown by make bench-check". It may make several
demands; it passes if it meets all of them. A demand compares one number with a limit.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import native
from .harness import Series

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("shmhub", "pyzmq", "faster-fifo", "iceoryx2", "numpy")
QUIET_LOAD = 0.5
"""A load average above this, before the benchmark starts, is said to be a disturbance."""


@dataclass(frozen=True)
class Demand:
    """`measured` must be at most `limit` (at least, if `floor`); `aim` is what would be better."""

    asked: str
    measured: float
    limit: float
    aim: str = ""
    unit: str = "x"
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    @property
    def beyond(self) -> float:
        """How far from the limit, as a factor: 1.0 is on it, above is a miss."""
        if self.at_least:
            return self.limit / self.measured if self.measured else float("inf")
        if self.limit:
            return self.measured / self.limit
        return 1.0 if self.measured <= 0 else float("inf")

    def shown(self) -> str:
        return f"{show_number(self.measured)} {self.unit}"


@dataclass
class Row:
    """One question and what was measured for it."""

    key: str
    what: str
    rounds: int = 0
    demands: list[Demand] = field(default_factory=list)
    figures: dict[str, Series] = field(default_factory=dict)
    per_second: bool = False
    shown_only: bool = False
    """Nothing is demanded: figures to know, not to judge."""
    missing: list[str] = field(default_factory=list)
    """Why a demand could not be judged: makes the row a MISS."""
    absent: list[str] = field(default_factory=list)
    """Contenders that could not run, "name: reason"; a MISS only for demands that need them."""
    notes: list[str] = field(default_factory=list)
    others_cpu: float = 0.0
    """Share of all cores that other processes used while this was measured."""

    @property
    def passed(self) -> bool:
        if self.shown_only:
            return not self.missing
        return bool(self.demands) and not self.missing and all(d.met for d in self.demands)

    @property
    def verdict(self) -> str:
        return "MISS" if not self.passed else "SHOWN" if self.shown_only else "PASS"

    @property
    def beyond(self) -> float:
        if not self.demands:
            return float("inf")
        return max(demand.beyond for demand in self.demands)

    def add_ratio(
        self,
        asked: str,
        mine: str,
        other: str,
        limit: float,
        aim: str = "",
        *,
        inverse: bool = False,
    ) -> None:
        """Demand on medians of two figures: mine / other <= limit; `inverse`: other / mine >= it.

        A contender that was not measured is a miss that says so.
        """
        for name in (mine, other):
            if name not in self.figures:
                self.need(name)
                return
        if self.figures[mine].stopped:  # a contender's trouble is its own; ours is a miss
            self.missing.append(f"{mine}: {self.figures[mine].stopped}")
        numerator, denominator = self.figures[mine].median, self.figures[other].median
        if inverse:
            numerator, denominator = denominator, numerator
        self.demands.append(
            Demand(asked, numerator / denominator, limit, aim, f"x {other}", at_least=inverse)
        )

    def need(self, name: str) -> None:
        """A demand needs this contender: without its figures the row is a MISS."""
        if name in self.figures:
            return
        reasons = [text for text in self.absent if text.startswith(f"{name}:")]
        reason = reasons[0] if reasons else f"{name}: not measured"
        if reason not in self.missing:
            self.missing.append(reason)


# ---------------------------------------------------------------- numbers


def show_number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def shorten(text: str, width: int = 70) -> str:
    line = text.splitlines()[0]
    return line if len(line) <= width else line[: width - 3] + "..."


def show_time(nanoseconds: float) -> str:
    for limit, divisor, unit in ((1e3, 1, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms")):
        if nanoseconds < limit:
            return f"{show_number(nanoseconds / divisor)} {unit}"
    return f"{show_number(nanoseconds / 1e9)} s"


def show_rate(nanoseconds: float) -> str:
    per_second = 1e9 / nanoseconds
    if per_second >= 1e6:
        return f"{per_second / 1e6:.2f} M/s"
    return f"{per_second / 1e3:,.0f} k/s"


# ---------------------------------------------------------------- tables


def print_table(header: Sequence[str], lines: Iterable[Sequence[str]], indent: str = "") -> None:
    rows = [list(header), *(list(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for number, row in enumerate(rows):
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        print(indent + "  ".join(cells).rstrip())
        if number == 0:
            print(indent + "  ".join("-" * width for width in widths))
    sys.stdout.flush()


def print_figures(row: Row) -> None:
    """Every contender of a row: median, p99 of single operations, spread over the rounds."""
    lines = []
    for name, series in row.figures.items():
        middle = show_time(series.median)
        if row.per_second:
            middle = f"{show_rate(series.median)} ({middle})"
        p99 = "-" if series.p99 is None else show_time(series.p99)
        lines.append((name, middle, p99, f"{series.spread:.0%}", str(len(series.rounds))))
    print_table(("contender", "median", "p99", "spread", "rounds"), lines, "    ")


def print_row(row: Row) -> None:
    print(f"\n{row.verdict}  {row.key}: {row.what}")
    if row.figures:
        print_figures(row)
    for name, series in row.figures.items():
        if series.stopped:
            print(f"    {name}: {series.stopped}")
    for demand in row.demands:
        mark = "met" if demand.met else f"MISSED by {demand.beyond:.2f} x"
        aim = f" (aim {demand.aim})" if demand.aim else ""
        print(f"    asked {demand.asked}{aim}: {demand.shown()}: {mark}")
    for text in row.missing:
        print(f"    MISS because {text}")
    for text in row.absent:
        if text not in row.missing:
            print(f"    not shown: {text}")
    for text in row.notes:
        print(f"    note: {text}")
    sys.stdout.flush()


def print_summary(rows: Sequence[Row]) -> None:
    lines = []
    for row in rows:
        asked = "; ".join(demand.asked for demand in row.demands) or "-"
        measured = "; ".join(demand.shown() for demand in row.demands) or "-"
        if row.missing:
            measured += " (" + "; ".join(shorten(text) for text in row.missing) + ")"
        lines.append((row.what, asked, measured, str(row.rounds), row.verdict))
    print()
    print_table(("what", "asked", "measured", "rounds", "verdict"), lines)


# ---------------------------------------------------------------- machine and JSON


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _commit() -> str:
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude", "*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except OSError:
        return "unknown"
    return answer.stdout.strip() or "unknown"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def describe_machine(command: Sequence[str]) -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "command": " ".join(command),
        "commit": _commit(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": native.compiler_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "load_before": round(os.getloadavg()[0], 2),
    }


def print_machine(machine: Mapping[str, Any]) -> None:
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB")
    print(f"{machine['kernel']}, {machine['python']}, {machine['compiler']}")
    print(", ".join(f"{name} {version}" for name, version in machine["libraries"].items()))
    print(f"{machine['command']}   commit {machine['commit']}, {machine['started']}")
    if machine["load_before"] > QUIET_LOAD:
        print(f"NOT QUIET: load average {machine['load_before']} before the start")
    sys.stdout.flush()


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        "key": row.key,
        "what": row.what,
        "verdict": row.verdict,
        "rounds": row.rounds,
        "demands": [
            {
                "asked": demand.asked,
                "measured": demand.measured,
                "unit": demand.unit,
                "limit": demand.limit,
                "aim": demand.aim,
                "met": demand.met,
                "beyond": demand.beyond if demand.beyond != float("inf") else None,
            }
            for demand in row.demands
        ],
        "figures_ns": {
            name: {
                "median": series.median,
                "p99": series.p99,
                "spread": series.spread,
                "rounds": series.rounds,
            }
            for name, series in row.figures.items()
        },
        "missing": row.missing,
        "absent": row.absent,
        "others_cpu": round(row.others_cpu, 4),
        "notes": row.notes,
    }


def write_json(machine: Mapping[str, Any], rows: Sequence[Row], name: str) -> Path:
    RESULTS.mkdir(exist_ok=True)
    stamp = str(machine["started"]).replace(":", "").replace("+0000", "Z")
    target = RESULTS / f"{name}-{stamp}.json"
    document = {"machine": dict(machine), "rows": [_row_as_json(row) for row in rows]}
    target.write_text(json.dumps(document, indent=1) + "\n")
    return target
