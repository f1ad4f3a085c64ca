"""What `spawn` was asked to start, made into a command line. Starts nothing itself."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shmhub._errors import PluginStartError

__all__ = [
    "GROUP",
    "OPTIONS_VARIABLE",
    "Target",
    "TargetArgument",
    "options_variable",
    "wrapped",
]

GROUP = "shmhub.plugins"
# Tells the new process the rest: its name, where to import from, its limits. Python plugins take it
# out of their environment, so that programs which they start do not see it.
OPTIONS_VARIABLE = "SHMHUB_PLUGIN_OPTIONS"

TargetArgument = str | os.PathLike[str] | Sequence[str]

_HERE = Path(__file__).resolve().parent
BOOTSTRAP = str(_HERE / "__main__.py")
EXECUTE = str(_HERE / "_exec.py")


class Target(NamedTuple):
    """One thing that can be started.

    kind: "file", "module", "entry_point" (these run under our own bootstrap) or "program".
    """

    kind: str
    value: str | tuple[str, ...]
    name: str
    text: str

    @classmethod
    def of(cls, target: TargetArgument, *, python: str | None = None) -> Target:
        """Say what is meant, and see to it that it is there, as far as that can be known here.

        Args:
            python: another interpreter; modules and entry points are looked up there, then.

        Raises:
            PluginStartError: there is no such file, program, module or entry point.
            TypeError, ValueError: not a target at all.
        """
        if isinstance(target, str | os.PathLike):
            text = os.fspath(target)
            if not isinstance(text, str) or not text or "\0" in text:
                raise ValueError(f"spawn: {target!r} is not the name of anything")
            if isinstance(target, os.PathLike) or text.endswith(".py") or os.sep in text:
                return cls._of_file(text)
            if ":" in text:
                return cls._of_module(text, python)
            return cls._of_entry_point(text, python)
        if isinstance(target, Sequence) and not isinstance(target, bytes | bytearray | memoryview):
            return cls._of_program([os.fspath(one) for one in target])
        raise TypeError(
            f"spawn: a target is a path, 'module:attr', the name of an entry point, or a list of "
            f"a program and its arguments, not {type(target).__name__}"
        )

    @classmethod
    def _of_file(cls, text: str) -> Target:
        path = os.path.abspath(text)
        if not os.path.exists(path):
            raise PluginStartError(f"spawn({text!r}): there is no file {path}")
        if os.path.isdir(path):
            raise PluginStartError(f"spawn({text!r}): {path} is a folder; name the file in it")
        if not path.endswith(".py") and os.access(path, os.X_OK):
            return cls("program", (path,), Path(path).name, text)
        if not os.access(path, os.R_OK):
            raise PluginStartError(f"spawn({text!r}): {path} cannot be read by this process")
        return cls("file", path, Path(path).stem, text)

    @classmethod
    def _of_module(cls, text: str, python: str | None) -> Target:
        module, _, attribute = text.partition(":")
        names = [*module.split("."), *attribute.split(".")]
        if not all(name.isidentifier() for name in names):
            raise ValueError(
                f"spawn({text!r}): 'module:attr' needs names on both sides of the colon"
            )
        if python is None and not _can_be_found(module.partition(".")[0]):
            raise PluginStartError(
                f"spawn({text!r}): there is no module {module!r} on sys.path; is it installed?"
            )
        return cls("module", text, module.rpartition(".")[2], text)

    @classmethod
    def _of_entry_point(cls, text: str, python: str | None) -> Target:
        if python is not None:
            return cls("entry_point", text, text, text)
        from importlib.metadata import entry_points

        points = entry_points(group=GROUP)
        for point in points:
            if point.name == text:
                return cls("module", point.value, text, text)
        known = ", ".join(sorted({point.name for point in points})) or "there are none at all"
        raise PluginStartError(
            f"spawn({text!r}): no installed package has an entry point of that name in the group "
            f"{GROUP!r} ({known}); a file needs '.py' or a '{os.sep}' in its name, a module a ':'"
        )

    @classmethod
    def _of_program(cls, words: list[str]) -> Target:
        if not words or not words[0]:
            raise ValueError("spawn: the list with the program and its arguments is empty")
        return cls("program", tuple(words), Path(words[0]).stem, " ".join(words))

    def command(self, python: str | None, args: Sequence[str], cwd: str | None) -> list[str]:
        """The command line, without the hub's own arguments.

        Raises:
            PluginStartError: there is no such program.
        """
        if self.kind == "program":
            program = [str(one) for one in self.value]
            where = (
                program[0] if cwd is None or os.sep not in program[0] else _under(cwd, program[0])
            )
            if shutil.which(where) is None:
                raise PluginStartError(
                    f"spawn({self.text!r}): there is no program {program[0]!r}"
                    + ("" if os.sep in program[0] else " on PATH")
                    + (" that can be executed" if os.path.exists(where) else "")
                )
            return [*program, *args]
        if python is not None:
            if shutil.which(python) is None:
                raise PluginStartError(f"spawn({self.text!r}): there is no interpreter {python!r}")
            return [python, BOOTSTRAP, self.text, *args]
        if not sys.executable:
            raise PluginStartError(
                f"spawn({self.text!r}): this interpreter does not know its own path "
                "(sys.executable is empty); pass python="
            )
        return [sys.executable, *_interpreter_flags(), BOOTSTRAP, self.text, *args]

    def options(self, python: str | None) -> dict[str, Any]:
        """What the bootstrap has to know of the target."""
        if self.kind == "program":
            return {}
        options: dict[str, Any] = {"kind": self.kind, "target": self.value, "parent": os.getpid()}
        if python is None:
            # "" means the current folder, which may be another one there.
            options["path"] = [os.path.abspath(one) if one == "" else one for one in sys.path]
        return options


def wrapped(command: Sequence[str], limits: Mapping[str, Any]) -> list[str]:
    """A program of any language, started so that it has its limits and ends with this process."""
    options = {"parent": os.getpid(), "limits": dict(limits)}
    return [sys.executable, "-I", "-S", EXECUTE, json.dumps(options), *command]


def _under(folder: str, path: str) -> str:
    return os.path.join(folder, path)


def _can_be_found(module: str) -> bool:
    if module in sys.modules:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _interpreter_flags() -> list[str]:
    """-X, -W, -I and the like of this interpreter, as multiprocessing hands them on, too."""
    import subprocess

    module: Any = subprocess
    return list(module._args_from_interpreter_flags())


def options_variable(options: Mapping[str, Any]) -> dict[str, str]:
    """The environment variable that carries all that the new process has to know."""
    return {OPTIONS_VARIABLE: json.dumps(options)}
