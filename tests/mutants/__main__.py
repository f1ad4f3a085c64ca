"""`python -m tests.mutants`: what `make mutants` and `make mutants-brief` run."""

from __future__ import annotations

import argparse
import hashlib
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.mutants import runner, table
from tests.mutants.gate import Core, Verdict, judge, needed
from tests.mutants.table import Row
from tests.mutants.workshop import Build

SAMPLE_SECONDS = 50.0
SAMPLE_ROWS = 25


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description="Takes each safeguard of the core away and sees whether its test notices.",
        epilog="example: python -m tests.mutants --file ring.c --jobs 2",
    )
    parser.add_argument("--file", help="rows of this file alone, such as ring.c")
    parser.add_argument("--only", help="rows whose function or text contains this")
    parser.add_argument("--every", type=int, default=1, help="every Nth row")
    parser.add_argument("--offset", type=int, default=0, help="from this one on")
    parser.add_argument("--list", action="store_true", help="print the sites, and run nothing")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (default 2)")
    parser.add_argument(
        "--brief",
        action="store_true",
        help="compare sites with rows, then some rows, in random order; "
        "open rows are counted and do no harm",
    )
    parser.add_argument("--every-verdict", action="store_true", help="say it of the killed, too")
    parser.add_argument("--seed", type=int, help="repeats the order of another --brief")
    options = parser.parse_args()
    if options.every < 1 or options.jobs < 1:
        parser.error("--every and --jobs must be above 0")
    return options


def _where(row: Row) -> str:
    ordinal = f" ##{row.key.ordinal}" if row.key.ordinal > 1 else ""
    what = f"{row.old} => {row.new}" if row.old else row.new
    return f"{row.key.file} {row.key.function}: {row.key.text}{ordinal} -> {what}"


def _list(core: Core, rows: dict[table.Key, Row], wanted: list[Row]) -> None:
    kinds = {key: site.kind for key, site in core.sites.items()}
    for row in wanted:
        print(f"{kinds.get(row.key, 'listed'):9} {_where(row)}: {row.result}")
    for site in core.missing(rows):
        print(f"{site.kind:9} {site.key.file} {site.key.function}: {site.key.text}: no row")


def _compare(core: Core, rows: dict[table.Key, Row]) -> int:
    """Number of things wrong with the table itself."""
    missing, stale = core.missing(rows), core.stale(rows)
    for site in missing:
        print(f"no row: {site.key.file} {site.key.function}: {site.key.text} ##{site.key.ordinal}")
    for row in stale:
        print(f"row without site: {_where(row)}")
    argued = sum(row.verdict == "argued" for row in rows.values())
    if argued > table.ARGUED_AT_MOST:
        print(f"{argued} rows are argued, {table.ARGUED_AT_MOST} may be")
    return len(missing) + len(stale) + (argued > table.ARGUED_AT_MOST)


def _run(
    core: Core, rows: list[Row], jobs: int, seconds: float | None, *, every_verdict: bool
) -> Counter[str]:
    """Judge them all, or as many as can be begun in that time."""
    builds = {name: Build(name) for name in table.VARIANTS}
    for name, tests in needed(rows).items():
        builds[name].make(sorted(tests))
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()
    deadline = None if seconds is None else time.monotonic() + seconds

    def one(job: tuple[int, Row]) -> None:
        number, row = job
        if deadline is not None and time.monotonic() > deadline:
            return
        verdict: Verdict = judge(core, builds, row, number)
        with lock:
            outcomes[verdict.outcome] += 1
            if every_verdict or verdict.outcome != "killed":
                print(f"{verdict.outcome}: {_where(row)}: {verdict.detail}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(one, enumerate(rows)):
            pass
    return outcomes


def _drawn(seed: int, row: Row) -> bytes:
    """Its place in the order of that seed, whatever other rows there are."""
    key = row.key
    name = f"{seed} {key.file} {key.function} {key.text} {key.ordinal}"
    return hashlib.sha256(name.encode()).digest()


def main() -> int:
    """0: every site has a row and every row's test notices its change, or says why it need not."""
    options = _parse()
    runner.no_core_dumps()
    core, rows = Core.read(), table.read()
    wanted = [
        row
        for row in rows.values()
        if options.file in (None, row.key.file)
        and (options.only is None or options.only in f"{row.key.function} {row.key.text}")
    ][options.offset :: options.every]
    if options.list:
        _list(core, rows, wanted)
        return 0
    wrong = _compare(core, rows)
    stale = {row.key for row in core.stale(rows)}
    killable = [row for row in wanted if row.verdict == "killed" and row.key not in stale]
    if options.brief:
        seed = random.SystemRandom().randrange(1 << 16) if options.seed is None else options.seed
        print(f"mutants: a sample, seed {seed} (repeat with --brief --seed {seed})", flush=True)
        # Builds of other variants than the plain one take longer than the sample may.
        killable = [row for row in killable if not row.variant]
        killable.sort(key=lambda row: _drawn(seed, row))  # a new row moves no other
        del killable[SAMPLE_ROWS:]
    seconds = SAMPLE_SECONDS if options.brief else None
    outcomes = _run(core, killable, options.jobs, seconds, every_verdict=options.every_verdict)
    marks = Counter(row.verdict for row in wanted)
    bad = outcomes["SURVIVED"] + outcomes["ERROR"]
    print(
        f"mutants: sites={len(core.sites)} rows={len(rows)} ran={outcomes.total()}"
        f" killed={outcomes['killed']} survived={outcomes['SURVIVED']} errors={outcomes['ERROR']}"
        f" order={marks['order']} argued={marks['argued']} open={marks['open']} table={wrong}"
    )
    if not options.brief:
        for row in wanted:
            if row.verdict == "open":
                print(f"open: {_where(row)}")
        bad += marks["open"]
    return 1 if bad or wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
