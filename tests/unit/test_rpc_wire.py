"""docs/rpc-protocol.md and the names in the code are the same."""

from __future__ import annotations

import re
from pathlib import Path

from shmhub._rpc import _wire as wire

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "rpc-protocol.md").read_text("utf-8")


def test_the_kinds_are_those_of_the_page() -> None:
    rows = re.findall(r"^\| (\w+) \| (0x[0-9A-F]{4}) \| (\w+) \|$", PAGE, re.MULTILINE)
    assert {int(number, 16): (name, who) for name, number, who in rows} == wire.KINDS


def test_the_states_are_those_of_the_page() -> None:
    table = PAGE.partition("## States of a call")[2].partition("\n\nA call")[0]
    rows = re.findall(r"^\| (\w+) \| (\w+) \| (.+) \|$", table, re.MULTILINE)
    assert tuple(row for row in rows if row[0] != "from") == wire.STATES


def test_what_c_says_of_it_is_the_same() -> None:
    header = (ROOT / "csrc" / "python" / "rpc_wire.h").read_text("utf-8")
    names = dict(re.findall(r"^#define HUB_RPC_(\w+) (?:0x)?([0-9A-F]+)u?\b", header, re.MULTILINE))
    assert int(names["CALL"], 16) == wire.CALL
    assert int(names["RESULT"], 16) == wire.RESULT
    assert int(names["NOT_SIMPLE"], 16) == (1 << wire.TREE_SHIFT) - 1
    assert int(names["TREE_MASK"], 16) == wire.TREE_MASK
    assert int(names["TREE_SHIFT"]) == wire.TREE_SHIFT
    assert int(names["LIFE_SHIFT"]) == wire.LIFE_SHIFT
    assert "LIFE_MASK ((UINT64_C(1) << 22) - 1)" in header
    assert wire.LIFE_MASK == (1 << 22) - 1
