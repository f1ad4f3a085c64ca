"""docs/rpc-protocol.md and the names in the code are the same."""

from __future__ import annotations

import re
from pathlib import Path

from shmhub._rpc import _wire as wire

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "rpc-protocol.md").read_text("utf-8")


def test_the_kinds_are_those_of_the_page() -> None:
    rows = re.findall(r"^\| (\w+) \| (0x[0-9A-F]{4}) \| (\w+) \|$", PAGE, re.MULTILINE)
    assert {int(number, 16): (name, who) for name, number, who in rows} == wire.KINDS


def test_the_states_are_those_of_the_page() -> None:
    table = PAGE.partition("## States of a call")[2].partition("\n\nA call")[0]
    rows = re.findall(r"^\| (\w+) \| (\w+) \| (.+) \|$", table, re.MULTILINE)
    assert tuple(row for row in rows if row[0] != "from") == wire.STATES
