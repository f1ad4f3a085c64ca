"""`python -m benchmarks.check [--only NAME] [--quick]`: what `make bench-check` runs.

For each row of the table: asked, measured, rounds, PASS or MISS. Writes JSON to
`benchmarks/results/`. Exit status 1 if any row is a MISS, 2 if the arguments are wrong.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .harness import Plan
from .quiet import DISTURBED, Moment, wait_until_quiet
from .report import Row, describe_machine, print_machine, print_row, print_summary, write_json

QUESTIONS: dict[str, tuple[str, ...]] = {
    "bench_round_trip": ("round-trip-spin", "round-trip-sleep", "round-trip-16m"),
    "bench_large": ("large",),
    "bench_one_way": ("one-way-64", "one-way-1k", "one-way-many"),
    "bench_asyncio": ("asyncio",),
    "bench_native": ("c-cross", "c-pair", "c-round-trip"),
    "bench_alloc": ("alloc-python",),
    "bench_new_hub": ("new-hub",),
    "bench_idle": ("idle",),
    "bench_fan_in": ("fan-in",),
    "bench_call": ("call-64", "call-64-sleep", "call-array", "calls-in-flight"),
    "bench_plugin_life": ("plugin-growth", "plugin-restart", "loop-blocked"),
    "bench_site": ("site",),
    "bench_recovery": ("recovery",),
}
"""The modules and the rows each answers, in the order of the table."""


def _measure(name: str, plan: Plan) -> list[Row]:
    """A question that cannot be measured, or not even imported, is a MISS that says why."""
    titles = {key: key for key in QUESTIONS[name]}
    if plan.patience:
        wait_until_quiet(plan.patience)
    before = Moment.now()
    try:
        module = importlib.import_module(f"benchmarks.{name}")
        titles = module.ROWS
        rows: list[Row] = module.measure(plan)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return [Row(key, titles[key], missing=[reason]) for key in QUESTIONS[name]]
    others = before.others_since()
    for row in rows:
        row.others_cpu = others
        if others > DISTURBED:
            row.notes.append(f"NOT QUIET: others used {others:.0%} of the cores meanwhile")
    return rows


def _chosen(only: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The modules to run and the rows to show of each; a name is a module's or a row's."""
    if not only:
        return dict(QUESTIONS)
    chosen: dict[str, tuple[str, ...]] = {}
    for module, keys in QUESTIONS.items():
        if module in only or module.removeprefix("bench_") in only:
            chosen[module] = keys
        elif wanted := tuple(key for key in keys if key in only):
            chosen[module] = wanted
    return chosen


def _known() -> set[str]:
    names = {*QUESTIONS, *(module.removeprefix("bench_") for module in QUESTIONS)}
    return names.union(*QUESTIONS.values())


def run(only: Sequence[str], plan: Plan, command: Sequence[str], name: str) -> list[Row]:
    machine: dict[str, Any] = describe_machine(command)
    print_machine(machine)
    begin = time.monotonic()
    rows: list[Row] = []
    for module, keys in _chosen(only).items():
        for row in _measure(module, replace(plan, rows=keys)):
            if row.key in keys:
                print_row(row)
                rows.append(row)
    machine["seconds"] = round(time.monotonic() - begin, 1)
    print_summary(rows)
    missed = [row for row in rows if not row.passed]
    target = write_json(machine, rows, name)
    passed = sum(row.verdict == "PASS" for row in rows)
    print(f"\n{passed} PASS, {len(missed)} MISS in {machine['seconds']} s", end="")
    print(f"; benchmarks/results/{target.name}")
    return rows


def _end(signum: int, frame: object) -> None:
    """SIGTERM unwinds like Ctrl-C, so that children and shared memory go, too."""
    raise SystemExit(128 + signum)


def _parse(argv: Sequence[str] | None, name: str, fixed: bool) -> tuple[list[str], Plan]:
    """The questions that are asked for, and how much to measure."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description="Measure shmhub beside what one would use instead, and judge the rows.",
        epilog=f"example: python -m {name} --quick" + ("" if fixed else " --only round-trip-spin"),
    )
    if not fixed:
        parser.add_argument(
            "--only", action="append", default=[], metavar="NAME", help="a row or a bench; repeat"
        )
    parser.add_argument("--quick", action="store_true", help="few and short rounds: not to quote")
    parser.add_argument("--rounds", type=int, help="rounds of each contender (default 9)")
    parser.add_argument(
        "--wait-quiet",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="before each question wait at most so long for others to leave the cores alone",
    )
    options = parser.parse_args(argv)
    plan = Plan.quick() if options.quick else Plan()
    if options.rounds is not None:
        if options.rounds < 1:
            parser.error("--rounds must be at least 1")
        plan = replace(plan, rounds=options.rounds)
    only: list[str] = [] if fixed else options.only
    if unknown := sorted(set(only) - _known()):
        known = ", ".join(sorted(_known()))
        parser.error(f"no such question: {', '.join(unknown)}; known: {known}")
    return only, replace(plan, patience=options.wait_quiet)


def main(
    argv: Sequence[str] | None = None,
    *,
    name: str = "benchmarks.check",
    fixed: str | None = None,
    judge: bool = True,
) -> int:
    """`fixed`: the one question of a bench's own command. Without `judge` a MISS is no failure."""
    only, plan = _parse(argv, name, fixed is not None)
    signal.signal(signal.SIGTERM, _end)
    given = list(sys.argv[1:] if argv is None else argv)
    short = name.rpartition(".")[2]
    rows = run([fixed] if fixed else only, plan, ["python", "-m", name, *given], short)
    return 0 if not judge or all(row.passed for row in rows) else 1


def run_alone(module: str) -> int:
    """What `python -m benchmarks.bench_x` does."""
    return main(name=f"benchmarks.{module}", fixed=module)


if __name__ == "__main__":
    sys.exit(main())
