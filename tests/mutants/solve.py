"""`python -m tests.mutants.solve`: finds a test for each site that has none, and writes the table.

Tries each mutation of a site that counts against the C test programs that come by it: those first
that have killed in the same function and file, then the quick ones. The first that notices one is
the row's. What nobody notices is written as `open`, with the mutation that comes first.
"""

from __future__ import annotations

import argparse
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from tests.mutants import runner, table
from tests.mutants.gate import Core
from tests.mutants.mutations import mutations
from tests.mutants.schemata import Mutation, Schemata
from tests.mutants.sites import Key
from tests.mutants.source import ROOT
from tests.mutants.table import Row

# What they say depends on time, or each takes minutes.
NEVER = frozenset({"test_doorbell_pingpong"})
STEPPING = ("_every_instruction", "_every_store")


def programs(variant: str) -> list[str]:
    names = sorted(path.stem for path in (ROOT / "tests/c").glob("test_*.c"))
    points = variant == "points"
    return [
        name
        for name in names
        if name not in NEVER
        and name.startswith("test_points_") == points
        and not name.endswith(STEPPING)
    ]


def limit_of(seconds: float) -> int:
    return 10 if seconds < 1.5 else 20 if seconds < 4 else 40 if seconds < 10 else 60


@dataclass(frozen=True, slots=True)
class Killer:
    name: str
    seconds: float
    reaches: frozenset[int]


def killers(schemata: Schemata, tests: Sequence[str], times: int, most: float) -> list[Killer]:
    """Those that are quick enough and pass every time on the core as it is."""
    result = []
    for name in tests:
        reaches, status, slowest = schemata.reached(name, 60)
        for _ in range(times):
            if status != 0 or slowest > most:
                break
            status, seconds = schemata.run(name, 0, 60)
            slowest = max(slowest, seconds)
        if status == 0 and slowest <= most:
            result.append(Killer(name, slowest, frozenset(reaches)))
        else:
            print(f"{name}: no killer, status {status} after {slowest:.1f} s", flush=True)
    return result


class Solver:
    def __init__(self, schemata: Schemata, tests: Sequence[Killer]) -> None:
        self.schemata, self.tests = schemata, tests
        self._kills: Counter[tuple[str, ...]] = Counter()
        self._lock = threading.Lock()

    def learn(self, key: Key, test: str) -> None:
        with self._lock:
            self._kills[test, key.file] += 1
            self._kills[test, key.file, key.function] += 1

    def _order(self, mutation: Mutation) -> list[Killer]:
        key = mutation.site.key

        def rank(test: Killer) -> tuple[float, float]:
            here = self._kills[test.name, key.file, key.function]
            return test.seconds / (1 + 4 * here + self._kills[test.name, key.file]), test.seconds

        return sorted((one for one in self.tests if mutation.number in one.reaches), key=rank)

    def solve(self, candidates: Sequence[Mutation]) -> Row:
        """All of one site."""
        for one in candidates:
            for test in self._order(one):
                limit = limit_of(test.seconds)
                # Here whatever takes so much longer than usual is taken for a hang.
                status, _ = self.schemata.run(test.name, one.number, limit * 0.4)
                if status not in (0, 77):
                    self.learn(one.site.key, test.name)
                    row = Row(one.site.key, one.new, "killed", test=test.name, limit=limit)
                    return replace(row, variant=self.schemata.variant)
        return Row(candidates[0].site.key, candidates[0].new, "open")


def merged(core: Core, rows: dict[Key, Row]) -> Iterable[Row]:
    """In the order of the sites, listed ones at the end of their function; without stale ones."""
    stale = {row.key for row in core.stale(rows)}
    listed = [row for row in rows.values() if row.listed and row.key not in stale]
    order = list(core.sites)
    for key, following in zip(order, [*order[1:], None], strict=True):
        if key in rows and key not in stale:
            yield rows[key]
        here = (key.file, key.function)
        if following is None or (following.file, following.function) != here:
            yield from (row for row in listed if (row.key.file, row.key.function) == here)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.solve", description=__doc__)
    parser.add_argument("--file", nargs="*", help="sites of these files alone, such as ring.c")
    parser.add_argument("--open", action="store_true", help="those of open rows, too")
    parser.add_argument("--variant", default="", choices=table.VARIANTS, help="how it is built")
    parser.add_argument("--tests", nargs="*", help="these programs alone")
    parser.add_argument("--times", type=int, default=20, help="runs that a killer has to pass")
    parser.add_argument("--at-most", type=float, default=5, help="seconds of a killer (default 5)")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--sync",
        action="store_true",
        help="run nothing: sites without a row become open, rows without a site go",
    )
    return parser.parse_args()


def main() -> int:
    options = _parse()
    runner.no_core_dumps()
    core = Core.read()
    rows = table.read() if table.TABLE.exists() else {}
    wanted = [
        key
        for key in core.sites
        if (key not in rows or (options.open and rows[key].verdict == "open"))
        and (not options.file or key.file in options.file)
    ]
    if options.sync:
        for key in core.sites.keys() - rows.keys():
            rows[key] = Row(key, mutations(core.sites[key])[0], "open")
        table.write(merged(core, rows))
        return 0
    schemata = Schemata(options.variant)
    tests = options.tests or programs(options.variant)
    schemata.make(tests)
    solver = Solver(schemata, killers(schemata, tests, options.times, options.at_most))
    for row in rows.values():
        solver.learn(row.key, row.test)
    print(f"{len(wanted)} sites, {len(schemata.mutations)} mutations", flush=True)
    lock = threading.Lock()

    def one(key: Key) -> None:
        row = solver.solve([each for each in schemata.mutations if each.site.key == key])
        with lock:
            rows[key] = row
            print(f"{key.file} {key.function}: {key.text} -> {row.new}: {row.result}", flush=True)
            if len(rows) % 20 == 0:
                table.write(merged(core, rows))

    with ThreadPoolExecutor(options.jobs) as pool:
        for _ in pool.map(one, wanted):
            pass
    table.write(merged(core, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
