"""Builds mutants: the core as it is, once for each variant, and then only what a mutation changes.

Everything is made under build/mutants. A variant is what the Makefile's SAN, WRAP and POINTS make.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.mutants.source import CSRC, ROOT, Source

OUT = ROOT / "build" / "mutants"
COMPILER = os.environ.get("CC", "gcc")
# As the Makefile's CORE_FLAGS; -w, because a mutation leaves variables unused.
FLAGS = ("-O1", "-g0", "-std=c11", "-w", "-fvisibility=hidden", "-fPIC", "-pthread")
WRAPPED = ("malloc", "calloc", "realloc", "free", "pthread_create")


@dataclass(frozen=True, slots=True)
class Variant:
    make: tuple[str, ...] = ()
    compile: tuple[str, ...] = ()
    link: tuple[str, ...] = ()


def _sanitized(name: str) -> tuple[str, ...]:
    return (f"-fsanitize={name}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


VARIANTS = {
    "": Variant(),
    "asan": Variant(
        ("SAN=address,undefined",),
        _sanitized("address,undefined"),
        tuple(f"-Wl,--wrap={name}" for name in WRAPPED),
    ),
    "tsan": Variant(("SAN=thread",), _sanitized("thread")),
    "wrap": Variant(("WRAP=1",), ("-DHUB_TEST_WRAP",)),
    "points": Variant(("POINTS=1",), ("-DHUB_INTERLEAVE",)),
}


class DoesNotCompile(Exception):
    """The mutant is none."""


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DoesNotCompile(done.stderr[-2000:])


class Build:
    """One variant of the core and its test programs, unmutated."""

    def __init__(self, name: str) -> None:
        self.name, self.variant = name, VARIANTS[name]
        self.out = OUT / (name or "plain")
        self._made: set[str] = set()
        self._lock = threading.Lock()

    def make(self, tests: Sequence[str]) -> None:
        """Compile what these programs are linked from; fails loudly, nothing is mutated here."""
        with self._lock:
            missing = sorted(set(tests) - self._made)
            if not missing:
                return
            targets = [str(self.out / "tests" / name) for name in missing]
            command = ["make", "-s", f"OUT={self.out}", f"CC={COMPILER}", "CFLAGS=-O1 -g0"]
            done = subprocess.run(
                [*command, *self.variant.make, *targets],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise SystemExit(f"the unmutated core does not build:\n{done.stderr[-4000:]}")
            self._made |= set(missing)

    def compile(self, source: Path, to: Path, csrc: Path) -> None:
        include = ("-iquote", csrc, "-iquote", "tests/c")
        flags = (
            *FLAGS,
            *self.variant.compile,
            *(("-UNDEBUG",) if source.name.startswith("test_") else ()),
        )
        _run([COMPILER, *flags, *include, "-c", source, "-o", to])

    def link(self, objects: Sequence[Path], to: Path) -> None:
        flags = ("-pthread", "-Wl,-z,now", *self.variant.compile, *self.variant.link)
        _run([COMPILER, *flags, "-o", to, *objects, self.out / "libshmhub.a"])


def users(file: str, function: str) -> list[str]:
    """What has to be compiled again when that function has changed: names of files of csrc."""
    if file.endswith(".c"):
        return [file]
    # A function of a header: who names it, and who names a header's function that does.
    names = {function}
    for _ in range(3):
        pattern = re.compile(r"\b(?:" + "|".join(names) + r")\s*\(")
        names |= {
            one.name
            for header in _headers()
            for one in header.functions
            if pattern.search(header.plain[one.start : one.end])
        }
    pattern = re.compile(r"\b(?:" + "|".join(names) + r")\s*\(")
    return [
        path.name for path in sorted(CSRC.glob("*.c")) if pattern.search(path.read_text("utf-8"))
    ]


@cache
def _headers() -> list[Source]:
    return [Source(path) for path in sorted(CSRC.glob("*.h"))]


class Mutant:
    """A copy of csrc with one function changed, and what is compiled from it. Use with `with`."""

    def __init__(self, build: Build, file: str, function: str, text: str, folder: Path) -> None:
        self.build, self.file, self.function = build, file, function
        self.text, self.folder = text, folder

    def __enter__(self) -> Mutant:
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "csrc").mkdir(parents=True)
        for path in CSRC.glob("*.[ch]"):
            copy = self.folder / "csrc" / path.name
            if path.name == self.file:
                copy.write_text(self.text, "utf-8")
            else:
                copy.symlink_to(path)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _compile(self, source: Path) -> Path:
        to = self.folder / f"{source.stem}.o"
        self.build.compile(source, to, self.folder / "csrc")
        return to

    def link(self, test: str) -> Path:
        """The test program with the changed core. A header's change is in the test's own code, too;
        what the programs share need not have it."""
        tests = self.build.out / "tests"
        own = tests / f"{test}.o"
        sources = [path.stem for path in sorted((ROOT / "tests/c").glob("*.c"))]
        support = [tests / f"{name}.o" for name in sources if not name.startswith("test_")]
        changed = [
            self._compile(self.folder / "csrc" / name) for name in users(self.file, self.function)
        ]
        if self.file.endswith(".h"):
            own = self._compile(ROOT / f"tests/c/{test}.c")
        program = self.folder / test
        self.build.link([own, *support, *changed], program)
        return program
