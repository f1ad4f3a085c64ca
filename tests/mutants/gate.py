"""Compares sites with rows, and finds out whether the row's test notices the row's change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.mutants import runner
from tests.mutants.sites import Key, Site, sites
from tests.mutants.source import Source, normalised, sources
from tests.mutants.table import Row
from tests.mutants.workshop import OUT, Build, DoesNotCompile, Mutant


class Lost(Exception):
    """The text of a row is not, or not once, where the row says."""


@dataclass(frozen=True, slots=True)
class Core:
    """The sources and all their sites, in order."""

    sources: Mapping[str, Source]
    sites: Mapping[Key, Site]

    @classmethod
    def read(cls) -> Core:
        files = {one.name: one for one in sources()}
        return cls(files, {site.key: site for one in files.values() for site in sites(one)})

    def place(self, key: Key, text: str) -> tuple[int, int]:
        """Where that text is in the function of `key`: it has to be there once."""
        source = self.sources.get(key.file)
        functions = [one for one in source.functions if one.name == key.function] if source else []
        pattern = r"\s*".join(re.escape(word) for word in normalised(text).split())
        found = [
            match
            for function in functions
            for match in re.finditer(pattern, source.plain[function.start : function.end])
        ]
        if len(functions) != 1 or len(found) < key.ordinal:
            raise Lost(f"{key.file} {key.function}: {text!r} is not there")
        match = found[key.ordinal - 1]
        return functions[0].start + match.start(), functions[0].start + match.end()

    def mutated(self, row: Row) -> str:
        """The file with the row's change in it."""
        site = self.sites.get(row.key)
        if row.old or site is None:
            start, end = self.place(row.key, row.old or row.key.text)
        else:
            start, end = site.start, site.end
        text = self.sources[row.key.file].text
        lines = text[start:end].count("\n")  # later lines keep their numbers
        return text[:start] + row.new + "\n" * lines + text[end:]

    def missing(self, rows: Mapping[Key, Row]) -> list[Site]:
        return [site for key, site in self.sites.items() if key not in rows]

    def stale(self, rows: Mapping[Key, Row]) -> list[Row]:
        return [row for row in rows.values() if not self._leads_somewhere(row)]

    def _leads_somewhere(self, row: Row) -> bool:
        if row.key not in self.sites and not row.listed:
            return False
        try:
            self.mutated(row)
        except (Lost, KeyError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Verdict:
    row: Row
    outcome: str  # killed, SURVIVED, ERROR
    detail: str = ""


def judge(core: Core, builds: Mapping[str, Build], row: Row, number: int) -> Verdict:
    """Build the row's mutant and run its test."""
    folder = Path(OUT, "work", str(number))
    text, key = core.mutated(row), row.key
    with Mutant(builds[row.variant], key.file, key.function, text, folder) as mutant:
        try:
            program = mutant.link(row.test)
        except DoesNotCompile as error:
            return Verdict(row, "ERROR", f"does not compile: {error}")
        status, seconds = runner.run(program, row.limit)
    if status == 77:
        return Verdict(row, "ERROR", f"{row.test} skips here")
    if status == 0:
        return Verdict(row, "SURVIVED", f"{row.test} passed in {seconds:.1f} s")
    return Verdict(row, "killed", f"status {status} after {seconds:.1f} s")


def needed(rows: Iterable[Row]) -> dict[str, set[str]]:
    """Which test programs of which variant."""
    result: dict[str, set[str]] = {}
    for row in rows:
        if row.verdict == "killed":
            result.setdefault(row.variant, set()).add(row.test)
    return result
