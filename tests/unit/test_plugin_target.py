"""What `spawn` takes for a target, and the command line that it makes of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import shmhub
from shmhub.plugin import _target
from shmhub.plugin._target import BOOTSTRAP, OPTIONS_VARIABLE, Target


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "image.py"
    path.write_text("")
    return path


def test_a_path_is_a_file_however_it_is_given(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    for given in (str(file), file, "image.py", "./image.py"):
        target = Target.of(given)
        assert (target.kind, target.value, target.name) == ("file", str(file), "image")
        assert target.command(None, ["--fast"], None)[-3:] == [BOOTSTRAP, target.text, "--fast"]


def test_a_colon_is_a_module_and_an_attribute() -> None:
    target = Target.of("xml.dom:plugin")
    assert (target.kind, target.value, target.name) == ("module", "xml.dom:plugin", "dom")


def test_another_word_is_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    point = metadata.EntryPoint("resize", "json:tool.plugin", _target.GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    target = Target.of("resize")
    assert (target.kind, target.value, target.name) == ("module", "json:tool.plugin", "resize")
    with pytest.raises(shmhub.PluginStartError, match=r"resiez.*\(resize\).*'\.py'"):
        Target.of("resiez")
    # Another interpreter has entry points of its own.
    assert Target.of("whatever", python="/usr/bin/python3").kind == "entry_point"


def test_a_list_is_a_program() -> None:
    target = Target.of(["sh", "-c", "exit"])
    assert (target.kind, target.name) == ("program", "sh")
    assert target.command(None, ["more"], None) == ["sh", "-c", "exit", "more"]
    assert target.options(None) == {}


def test_an_executable_file_is_a_program(tmp_path: Path) -> None:
    path = tmp_path / "native"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    assert Target.of(path).kind == "program"


def test_children_inherit_the_interpreter_its_flags_and_its_path(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "warnoptions", [*sys.warnoptions, "error::UserWarning"])
    command = Target.of(file).command(None, [], None)
    assert command[0] == sys.executable
    assert "-Werror::UserWarning" in command
    monkeypatch.setattr(sys, "path", ["", "/somewhere"])
    options = Target.of(file).options(None)
    assert options["path"] == [str(Path.cwd()), "/somewhere"]
    assert "path" not in Target.of(file).options("/usr/bin/python3")
    (text,) = _target.options_variable(options).values()
    assert json.loads(text) == options
    assert list(_target.options_variable(options)) == [OPTIONS_VARIABLE]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("./missing.py", "no file .*missing.py"),
        (["no-such-program-anywhere"], "no-such-program-anywhere.*on PATH"),
        (["./no-such-program"], "no program './no-such-program'"),
        ("no_such_module_anywhere:plugin", "no_such_module_anywhere.*sys.path"),
    ],
)
def test_what_is_not_there_is_said(given: Any, message: str) -> None:
    with pytest.raises(shmhub.PluginStartError, match=message):
        Target.of(given).command(None, [], None)


def test_a_folder_a_missing_interpreter_and_no_interpreter_at_all(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(shmhub.PluginStartError, match="is a folder"):
        Target.of(file.parent)
    with pytest.raises(shmhub.PluginStartError, match="no interpreter 'python-none'"):
        Target.of(file, python="python-none").command("python-none", [], None)
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(shmhub.PluginStartError, match=r"sys\.executable is empty"):
        Target.of(file).command(None, [], None)


@pytest.mark.parametrize("given", ["", "a\0b", "module:", "mod ule:x", [], [""], "mod:1x"])
def test_what_is_no_target_is_a_value_error(given: Any) -> None:
    with pytest.raises(ValueError, match="spawn"):
        Target.of(given)


@pytest.mark.parametrize("given", [None, 7, b"image.py"])
def test_what_is_not_even_that_is_a_type_error(given: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="spawn"):
        Target.of(given)
