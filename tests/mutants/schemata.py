"""All mutants in one build: each site asks whether it is the one that is changed in this process.

For the solver, which runs many programs with many mutants: nothing is compiled or linked for one of
them. What it finds is judged by gate.py, which builds each mutant by itself.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants import runner
from tests.mutants.mutations import DROPPED, mutations
from tests.mutants.sites import Site, sites
from tests.mutants.source import ROOT, Source, sources
from tests.mutants.workshop import COMPILER, FLAGS, OUT, VARIANTS, Variant

ASKS = """\
#ifndef ASK_MUTANT_H
#define ASK_MUTANT_H
extern int which_mutant;
extern unsigned char *seen_mutants;
#ifdef RECORD_MUTANTS
#define MUTANT(n) (seen_mutants[n] = 1, 0)
#else
#define MUTANT(n) __builtin_expect(which_mutant == (n), 0)
#endif
#endif
"""
ANSWERS = """\
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
int which_mutant;
static unsigned char nowhere[65536];
unsigned char *seen_mutants = nowhere;
__attribute__((constructor(101))) static void choose(void) {
    const char *number = getenv("WHICH_MUTANT"), *record = getenv("SEEN_MUTANTS");
    if (number != NULL) which_mutant = atoi(number);
    int fd = record == NULL ? -1 : open(record, O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        seen_mutants = mmap(NULL, sizeof nowhere, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}
"""


@dataclass(frozen=True, slots=True)
class Mutation:
    number: int
    site: Site
    new: str


# What a statement may follow; a bracket that is no cast, or (void).
STATEMENT = re.compile(r"(?:[;{}]|\(void\)|(?<!_t)(?<! \*)\)|\belse|\bdo)\Z")


def _is_statement(source: Source, site: Site) -> bool:
    before, after = source.structure[: site.start].rstrip(), source.structure[site.end :].lstrip()
    return after.startswith(";") and bool(STATEMENT.search(before))


def _text_of(path: Path) -> str | None:
    return path.read_text("utf-8") if path.exists() else None


def _is_newer(made: Path, of: Iterable[Path]) -> bool:
    if not made.exists():
        return False
    return all(made.stat().st_mtime > path.stat().st_mtime for path in of)


class Schemata:
    """Every mutation of every site that can be built beside the others."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.out = OUT / f"schemata{'-' + variant if variant else ''}"
        self.mutations: list[Mutation] = []
        self.texts = {one.name: self._rewrite(one) for one in sources()}

    def _candidates(self, source: Source, site: Site) -> list[str]:
        statement = _is_statement(source, site)
        texts = mutations(site)
        if site.kind == "safeguard":
            texts = [DROPPED] if statement else [one for one in texts if one != DROPPED]
        return texts

    def _rewrite(self, source: Source) -> str:
        inserts: list[tuple[int, int, str]] = []
        for site in sites(source):
            asked = ""
            statement = _is_statement(source, site)
            for new in self._candidates(source, site):
                number = len(self.mutations) + 1
                self.mutations.append(Mutation(number, site, new))
                asked += f"MUTANT({number}) ? {'(void)' if statement else ''}({new}) : "
            if site.key.text.startswith("__asm__"):
                inserts.append((site.start, 0, f"if (!MUTANT({len(self.mutations)})) "))
                continue
            # An outer one opens first and closes last.
            inserts.append((site.start, -site.end, f"({asked}{'(void)' if statement else ''}("))
            inserts.append((site.end, -(1 << 30) + site.start, "))"))
        text, result, last = source.text, [], 0
        # At the same place: what closes before what opens; the inner closes first.
        for at, rank, what in sorted(inserts, key=lambda one: (one[0], one[2] != "))", one[1])):
            _ = rank
            result += [text[last:at], what]
            last = at
        return "".join([*result, text[last:]])

    def make(self, tests: Sequence[str]) -> None:
        """Compile what is not there yet, or was made of something else."""
        csrc = self.out / "csrc"
        files = self.texts | {"ask_mutant.h": ASKS, "answers.c": ANSWERS}
        if any(_text_of(csrc / name) != text for name, text in files.items()):
            shutil.rmtree(self.out, ignore_errors=True)
            csrc.mkdir(parents=True)
            for name, text in files.items():
                (csrc / name).write_text(text, "utf-8")
        support = [
            path
            for path in sorted((ROOT / "tests/c").glob("*.c"))
            if not path.name.startswith("test_")
        ]
        for folder, flags in (("run", ()), ("record", ("-DRECORD_MUTANTS",))):
            (self.out / folder).mkdir(exist_ok=True)
            objects = [self._compile(path, folder, flags) for path in sorted(csrc.glob("*.c"))]
            objects += [self._compile(path, folder, flags) for path in support]
            for test in tests:
                parts = [self._compile(ROOT / f"tests/c/{test}.c", folder, flags), *objects]
                self._link(parts, self.out / folder / test)

    def _link(self, objects: Sequence[Path], program: Path) -> None:
        if _is_newer(program, objects):
            return
        flags = ("-pthread", "-Wl,-z,now", *self._variant.compile, *self._variant.link)
        self._command([COMPILER, *flags, "-o", program, *objects])

    @property
    def _variant(self) -> Variant:
        return VARIANTS[self.variant]

    def _compile(self, path: Path, folder: str, flags: Sequence[str]) -> Path:
        to = self.out / folder / f"{path.stem}.o"
        if _is_newer(to, [path, *path.parent.glob("*.h")]):
            return to
        include = ("-include", self.out / "csrc/ask_mutant.h", "-iquote", self.out / "csrc")
        assertions = ("-UNDEBUG", "-iquote", "tests/c")
        self._command(
            [COMPILER, *FLAGS, *self._variant.compile, *flags, *include, *assertions, "-c", path,
             "-o", to]
        )  # fmt: skip
        return to

    @staticmethod
    def _command(command: Sequence[str | Path]) -> None:
        subprocess.run(command, cwd=ROOT, check=True)

    def reached(self, test: str, limit: float) -> tuple[set[int], int, float]:
        """Mutations that a run comes by, its exit status and its seconds."""
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(65536)
            program = self.out / "record" / test
            status, seconds = runner.run(program, limit, {"SEEN_MUTANTS": file.name})
            seen = Path(file.name).read_bytes()
        return {number for number, one in enumerate(seen) if one}, status, seconds

    def run(self, test: str, number: int, limit: float) -> tuple[int, float]:
        """As the mutant of that number; 0: unmutated."""
        return runner.run(self.out / "run" / test, limit, {"WHICH_MUTANT": str(number)})
