"""What does the C core cost alone, without Python?

A pair of alloc and free by one thread, beside an uncontended compare-and-swap pair; the same on two
cores at once; slots taken by one process and freed by another; a round trip of two that spin. Each
beside the bare thing: a Treiber stack without owners or recovery, a word in shared memory.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from . import native
from .check import run_alone
from .harness import Case, Plan, in_turns, sized
from .report import Row

TRIAL = 20_000
"""Operations of the first run, from whose time the number in a batch is made."""
ROWS = {
    "c-cross": "C alone: alloc and free in different processes at full speed, per message",
    "c-pair": "C alone: alloc+free pair, one thread",
    "c-round-trip": "C alone: 64 B round trip, spinning",
}


@dataclass(frozen=True)
class Part:
    """One question of one program."""

    name: str
    program: str
    question: str

    def case(self, plan: Plan) -> Case:
        path = native.program(self.program, with_core=True)

        def once(count: int) -> float:
            return native.run_program(path, self.question, count)

        return Case(self.name, sized(once, plan.seconds, TRIAL))


CROSS = (
    Part("shmhub", "cross", "pool"),
    Part("Treiber stack", "cross", "treiber"),
    Part("bare ring alone", "cross", "ring"),
    Part("shmhub, the whole message", "cross", "hub"),
)
PAIR = (
    Part("shmhub 1 KiB", "pairs", "hub"),
    Part("CAS pair", "pairs", "cas"),
    Part("Treiber stack", "pairs", "treiber"),
    Part("shmhub 1 KiB, allocator alone", "pairs", "pool"),
    Part("shmhub 16 MiB", "pairs", "hub16m"),
    Part("two cores: shmhub", "contend", "pool"),
    Part("two cores: Treiber stack", "contend", "treiber"),
)
ROUND_TRIP = (
    Part("shmhub", "word", "hub"),
    Part("spinning word", "word", "word"),
)


def _measure(plan: Plan, key: str, parts: tuple[Part, ...]) -> Row:
    row = Row(key, ROWS[key], plan.rounds)
    row.figures = in_turns([part.case(plan) for part in parts], plan.rounds)
    return row


def measure(plan: Plan) -> list[Row]:
    cross = _measure(plan, "c-cross", CROSS)
    cross.add_ratio("<= 1/2 of a bare Treiber stack", "shmhub", "Treiber stack", 0.5, "1/4")
    pair = _measure(plan, "c-pair", PAIR)
    pair.add_ratio("<= 3 x an uncontended CAS pair", "shmhub 1 KiB", "CAS pair", 3.0, "25 ns")
    trip = _measure(plan, "c-round-trip", ROUND_TRIP)
    trip.add_ratio("<= 5 x a spinning word's", "shmhub", "spinning word", 5.0, "300 ns")
    return [cross, pair, trip]


if __name__ == "__main__":
    sys.exit(run_alone(Path(__file__).stem))
