"""The mutation gate itself: which sites it sees, how it keys them, that its table is read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import table
from tests.mutants.gate import Core
from tests.mutants.mutations import mutations
from tests.mutants.sites import Key, Site, sites
from tests.mutants.source import Source

CODE = """\
#ifdef HUB_INTERLEAVE
static void never(hub_a64 *p) { hub_store_release_64(p, 1); }
#endif
/* static int commented(void) { hub_fence(); } */
static int room(hub_ring *r, uint32_t cells) {
    uint64_t head = hub_load_acquire_64(&r->head);
    if (head > r->capacity || r->tail == 0) return -1;
    if (ptr == NULL) return -2;
    while (!hub_cas_acq_rel_64(&r->word, &head,
                               head + 1)) /* in two lines */
        ;
    hub_fence();
    hub_fence();
    if (cells > 0 && !r->closed) hub_link_ring(r);
    return r->capacity - head >= cells;
}
"""


def listed(tmp_path: Path, code: str = CODE) -> list[Site]:
    path = tmp_path / "made_up.c"
    path.write_text(code, "utf-8")
    return sites(Source(path))


def test_sites_of_each_kind(tmp_path: Path) -> None:
    found = {(one.key.text, one.key.ordinal): one for one in listed(tmp_path)}
    assert {text: one.kind for (text, ordinal), one in found.items() if ordinal == 1} == {
        "hub_load_acquire_64(&r->head)": "atomic",
        "head > r->capacity": "check",
        "r->tail == 0": "check",
        "hub_cas_acq_rel_64(&r->word, &head, head + 1)": "atomic",
        "hub_fence()": "fence",
        "cells > 0": "check",
        "!r->closed": "check",
        "hub_link_ring(r)": "safeguard",
        "r->capacity - head >= cells": "check",
    }
    assert ("hub_fence()", 2) in found
    assert {one.key.function for one in found.values()} == {"room"}


@pytest.mark.parametrize(
    ("text", "dropped"),
    [("head > r->capacity", "0"), ("cells > 0", "1"), ("r->capacity - head >= cells", "1")],
)
def test_a_dropped_clause_does_not_decide(tmp_path: Path, text: str, dropped: str) -> None:
    (site,) = [one for one in listed(tmp_path) if one.key.text == text]
    assert mutations(site) == [dropped]


def test_keys_stay_when_lines_move(tmp_path: Path) -> None:
    moved = "\n\n" + CODE.replace("    if (ptr", "    other();\n    if (ptr")
    before = [one.key for one in listed(tmp_path)]
    assert [one.key for one in listed(tmp_path, moved)] == before


def test_the_mutation_takes_the_place_of_the_site(tmp_path: Path) -> None:
    path = tmp_path / "made_up.c"
    path.write_text(CODE, "utf-8")
    source = Source(path)
    core = Core({"made_up.c": source}, {one.key: one for one in sites(source)})
    second = Key("made_up.c", "room", "hub_fence()", 2)
    text = core.mutated(table.Row(second, "(void)0", "open"))
    assert "    hub_fence();\n    (void)0;\n" in text
    by_hand = Key("made_up.c", "room", "return -2")
    assert "NULL) return 0;" in core.mutated(table.Row(by_hand, "return 0", "open", listed=True))
    gone = table.Row(Key("made_up.c", "room", "hub_fence()", 3), "0", "open")
    assert core.stale({gone.key: gone}) == [gone]


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [
        table.Row(Key("a.c", "f", "x > y", 2), "0", "killed", test="test_a", limit=10),
        table.Row(Key("a.c", "f", "z"), "1", "killed", test="test_a", variant="asan", limit=9),
        table.Row(Key("a.c", "g", "hub_fence()"), "(void)0", "order", reason="after a CAS"),
        table.Row(Key("b.c", "g", "y || z"), "0", "open", old="y", listed=True),
    ]
    path = tmp_path / "table.txt"
    table.write(rows, path)
    assert list(table.read(path).values()) == rows


@pytest.mark.parametrize(
    "result", ["killed by test_a", "order", "argued", "survived: because", "killed in 10 s"]
)
def test_a_result_that_says_nothing_is_refused(tmp_path: Path, result: str) -> None:
    path = tmp_path / "table.txt"
    path.write_text(f"[a.c f]\n  x\n    0  ::  {result}\n", "utf-8")
    with pytest.raises(table.TableError):
        table.read(path)
