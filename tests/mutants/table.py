"""The table: a row a site, in plain text that a person can read and git can merge.

    [ring.c hub_ring_room]
      used > p->capacity
        0  ::  killed by test_ring_hostile in 10 s

A heading names file and function; a line with two blanks is the text of a site there ("##2": the
second with that text; "+": no rule finds it, it was listed by hand); the line below it says what
the text is replaced with and what comes of it. "OLD  =>  NEW" replaces OLD, also in that function.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.mutants.sites import Key

TABLE = Path(__file__).with_name("table.txt")
VARIANTS = ("", "asan", "tsan", "wrap", "points")
KILLED = re.compile(
    r"killed by (?P<test>test_\w+)(?: (?P<variant>asan|tsan|wrap|points))? in (?P<limit>\d+) s"
)
ARGUED_AT_MOST = 5


class TableError(Exception):
    """A line that cannot be read: which, and why."""


@dataclass(frozen=True, slots=True)
class Row:
    key: Key
    new: str
    verdict: str  # killed, order, argued, open
    old: str = ""  # "": the site's own text
    listed: bool = False
    test: str = ""
    variant: str = ""
    limit: int = 0
    reason: str = ""

    @property
    def result(self) -> str:
        if self.verdict == "killed":
            variant = f" {self.variant}" if self.variant else ""
            return f"killed by {self.test}{variant} in {self.limit} s"
        return f"{self.verdict}: {self.reason}" if self.reason else self.verdict


def _read_result(row: Row, text: str, line: str) -> Row:
    match = KILLED.fullmatch(text)
    if match:
        return replace(
            row,
            verdict="killed",
            test=match["test"],
            variant=match["variant"] or "",
            limit=int(match["limit"]),
        )
    verdict, _, reason = text.partition(": ")
    if verdict not in ("order", "argued", "open"):
        raise TableError(f"{line!r}: neither killed by ... in N s, nor order, argued or open")
    if verdict != "open" and not reason:
        raise TableError(f"{line!r}: without a reason")
    return replace(row, verdict=verdict, reason=reason)


def read(path: Path = TABLE) -> dict[Key, Row]:
    rows: dict[Key, Row] = {}
    place, site = ("", ""), ""
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        where = f"{path.name}:{number}: {line}"
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            file, _, function = line.strip("[] ").partition(" ")
            place = (file, function)
        elif line.startswith("    "):
            what, parted, result = line.strip().rpartition("  ::  ")
            if not parted or not site:
                raise TableError(f"{where!r}: a mutation without a site or a result")
            listed = site.startswith("+ ")
            text, _, ordinal = site.removeprefix("+ ").partition("  ##")
            key = Key(*place, text, int(ordinal or 1))
            if key in rows:
                raise TableError(f"{where!r}: that site has a row already")
            old, changed, new = what.partition("  =>  ")
            row = Row(key, new if changed else what, "", old if changed else "", listed)
            rows[key] = _read_result(row, result, where)
            site = ""
        elif line.startswith("  "):
            site = line.strip()
        else:
            raise TableError(f"{where!r}: neither heading, site nor mutation")
    return rows


HEAD = """\
# Every site of the core and the change that a test notices. What the lines mean: table.py here;
# which sites there are: sites.py. Sorted by file; within one, as the source is.
# `make mutants-brief` says what is missing, `python -m tests.mutants.solve` tries to fill it in.
"""


def write(rows: Iterable[Row], path: Path = TABLE) -> None:
    """In the order given, which is that of the sites."""
    lines, place = [HEAD], None
    for row in rows:
        if place != (row.key.file, row.key.function):
            place = (row.key.file, row.key.function)
            lines.append(f"\n[{row.key.file} {row.key.function}]\n")
        ordinal = f"  ##{row.key.ordinal}" if row.key.ordinal > 1 else ""
        listed = "+ " if row.listed else ""
        what = f"{row.old}  =>  {row.new}" if row.old else row.new
        lines.append(f"  {listed}{row.key.text}{ordinal}\n    {what}  ::  {row.result}\n")
    path.write_text("".join(lines), "utf-8")
