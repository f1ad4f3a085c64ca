"""Builds the C parts of the benchmarks into `benchmarks/build/` and runs them.

They are built when they are older than their sources, by one compiler call each, with the flags of
a release build; the compiler is $CC, or cc.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
PROGRAMS = HERE / "c"
CORE = HERE.parent / "csrc"
RUN_SECONDS = 60
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-D_GNU_SOURCE")


class BuildError(RuntimeError):
    """A C part cannot be built or run; the message carries what the compiler or program said."""


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


def compiler_version() -> str:
    try:
        answer = subprocess.run([*compiler(), "--version"], capture_output=True, text=True)
    except OSError:
        return "none"
    return answer.stdout.splitlines()[0] if answer.stdout else "unknown"


def _newer(target: Path, sources: Sequence[Path]) -> bool:
    if not target.exists():
        return False
    built = target.stat().st_mtime_ns
    return all(source.stat().st_mtime_ns <= built for source in sources)


def _compile(target: Path, arguments: Sequence[str]) -> None:
    """Into a name of our own first: two runs at a time never see half a file."""
    BUILD.mkdir(exist_ok=True)
    scratch = target.with_name(f"{target.name}.{os.getpid()}")
    command = [*compiler(), *FLAGS, "-o", str(scratch), *arguments]
    try:
        outcome = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise BuildError(f"no C compiler: {error}") from error
    if outcome.returncode != 0:
        scratch.unlink(missing_ok=True)
        raise BuildError(f"cannot build {target.name}:\n{outcome.stderr}")
    scratch.replace(target)


def extension(name: str, source: Path) -> ModuleType:
    """A C extension of this Python version, built if need be and imported."""
    target = BUILD / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not _newer(target, [source]):
        include = sysconfig.get_paths()["include"]
        _compile(target, ["-shared", "-fPIC", f"-I{include}", str(source)])
    spec = importlib.util.spec_from_file_location(name, target)
    if spec is None or spec.loader is None:
        raise BuildError(f"cannot import {target.name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def core_library() -> Path:
    """libshmhub.a from the sources beside us, with the flags of a release build."""
    sources = sorted(CORE.glob("*.c"))
    if not sources:
        raise BuildError("no sources of the core in csrc/")
    target = BUILD / "libshmhub.a"
    if _newer(target, [*sources, *CORE.glob("*.h")]):
        return target
    objects = []
    for source in sources:
        target_object = BUILD / f"core-{source.stem}.o"
        _compile(target_object, ["-c", "-fvisibility=hidden", f"-I{CORE}", str(source)])
        objects.append(str(target_object))
    target.unlink(missing_ok=True)  # ar would keep members whose source is gone
    outcome = subprocess.run(["ar", "rcs", str(target), *objects], capture_output=True, text=True)
    if outcome.returncode != 0:
        raise BuildError(f"ar: {outcome.stderr}")
    return target


def program(name: str, *, with_core: bool) -> Path:
    """The program `c/name.c`, linked with what the C questions share."""
    sources = [PROGRAMS / f"{name}.c", PROGRAMS / "bench.c"]
    libraries: list[Path] = []
    if with_core:
        sources += [PROGRAMS / "bench_hub.c", PROGRAMS / "bench_pool.c"]
        libraries.append(core_library())
    target = BUILD / name
    headers = [*PROGRAMS.glob("*.h"), *CORE.glob("*.h")]
    if not _newer(target, [*sources, *libraries, *headers]):
        inputs = [str(path) for path in (*sources, *libraries)]
        _compile(target, [f"-I{CORE}", *inputs, "-pthread"])
    return target


def peer_program(name: str) -> Path:
    """The program `c/name.c`, a peer of a hub: linked with the core alone."""
    source, library = PROGRAMS / f"{name}.c", core_library()
    target = BUILD / name
    if not _newer(target, [source, library, *CORE.glob("*.h")]):
        _compile(target, [f"-I{CORE}", str(source), str(library), "-pthread"])
    return target


def run_program(path: Path, question: str, count: int) -> float:
    """ns an operation, as the program prints it."""
    outcome = subprocess.run(
        [str(path), question, str(count)], capture_output=True, text=True, timeout=RUN_SECONDS
    )
    if outcome.returncode != 0:
        raise BuildError(f"{path.name} {question}: {outcome.stderr.strip() or 'failed'}")
    return float(outcome.stdout)
