"""What the README shows works word for word."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_example_runs(tmp_path: Path) -> None:
    plugin, program = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)[:2]
    (tmp_path / "upper.py").write_text(plugin)
    (tmp_path / "program.py").write_text(program)
    outcome = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "b'HELLO'\n", "")


def test_every_command_that_it_names_exists() -> None:
    named = set(re.findall(r"python -m shmhub ([a-z]+)", README.read_text("utf-8")))
    assert named, "the README names commands"
    for name in named:
        outcome = subprocess.run(
            [sys.executable, "-m", "shmhub", name, "--help"], capture_output=True, timeout=60
        )
        assert outcome.returncode == 0, name


def test_every_file_that_it_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text("utf-8"))
    assert links, "the README links to the documentation"
    for link in links:
        assert (README.parent / link).exists(), link


def test_every_make_target_that_it_names_exists() -> None:
    makefile = (README.parent / "Makefile").read_text("utf-8")
    named = set(re.findall(r"^make ([a-z-]+)", README.read_text("utf-8"), re.MULTILINE))
    assert {"demo", "test"} <= named
    for name in named:
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name
