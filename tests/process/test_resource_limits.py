"""RLIMIT_NOFILE, RLIMIT_FSIZE, RLIMIT_AS at every step: an exception, no signal, no leak."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.limited import STEPS
from tests.support.stage import Stage

# How much is left for the step, in units of the limit: descriptors, 64 KiB, 2 MiB.
SPARES = (0, 1, 2, 3, 5, 8)

# Where a file's size can matter at all: later steps only reserve memory behind it.
RUNS = [
    (limit, before)
    for limit in ("NOFILE", "FSIZE", "AS")
    for before in STEPS
    if limit != "FSIZE" or before in ("create", "add_peer", "alloc")
]


def _run(stage: Stage, limit: str, before: str, spare: int, path: str | None) -> tuple[int, str]:
    reader, writer = os.pipe()
    child = stage.nursery.spawn(
        "tests.support.limited:run",
        fds={"report": writer},
        limit=limit,
        before=before,
        spare=spare,
        path=path,
    )
    os.close(writer)
    try:
        with open(reader) as report:
            outcome = report.read()
        status = child.wait()
        assert status == 0, f"{outcome!r}, status {status}\n{child.read_stderr()}"
        assert outcome, child.read_stderr()
        return status, outcome
    finally:
        child.close()


@pytest.mark.parametrize("named", [False, True], ids=["memfd", "named"])
@pytest.mark.parametrize(("limit", "before"), RUNS)
def test_every_step_under_a_limit_fails_cleanly_or_works(
    stage: Stage, tmp_path: Path, limit: str, before: str, named: bool
) -> None:
    outcomes = []
    for spare in SPARES:
        path = str(tmp_path / "hub") if named else None
        _status, outcome = _run(stage, limit, before, spare, path)
        outcomes.append(outcome)
    # The limit was really felt: with nothing to spare the first steps cannot work.
    if before in ("create",) and limit in ("NOFILE", "FSIZE"):
        assert outcomes[0].startswith("create:"), outcomes


def test_limits_that_are_wide_enough_are_not_felt(stage: Stage) -> None:
    assert _run(stage, "NOFILE", "create", 200, None)[1] == "all steps done"
    assert _run(stage, "FSIZE", "create", 1 << 20, None)[1] == "all steps done"
    assert _run(stage, "AS", "create", 200, None)[1] == "all steps done"


def test_a_default_hub_under_a_limited_address_space_is_made_smaller(stage: Stage) -> None:
    """`ulimit -v`: less room to grow and a warning, not a failure."""
    reader, writer = os.pipe()
    child = stage.nursery.spawn(
        "tests.support.limited:run_default_hub", fds={"report": writer}, mebibytes=600
    )
    os.close(writer)
    try:
        with open(reader) as report:
            text = report.read()
        assert child.wait() == 0, child.read_stderr()
        assert "limited=True" in text, text
        assert "warned=True" in text, text
    finally:
        child.close()
