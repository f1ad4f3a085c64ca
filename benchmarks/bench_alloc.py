"""What does a slot cost from Python, taken and given back? Against a `bytearray` of that size."""

from __future__ import annotations

import sys
from pathlib import Path

import shmhub

from .check import run_alone
from .harness import Plan, in_turns, near_case
from .hub import make_config
from .report import Row

SIZE = 1024
ROWS = {"alloc-python": "Python alloc_nowait+release of 1 KiB"}


def _make_bytearrays(count: int) -> None:
    make = bytearray
    for _ in range(count):
        make(SIZE)


def measure(plan: Plan) -> list[Row]:
    row = Row("alloc-python", ROWS["alloc-python"], plan.rounds)
    with (
        shmhub.HubHost.create(None, make_config(None)) as host,
        shmhub.HubHostTransport(host) as transport,
    ):
        alloc = transport.alloc_nowait

        def take_and_give(count: int) -> None:
            for _ in range(count):
                alloc(SIZE).release()

        cases = [
            near_case("shmhub", take_and_give, plan.seconds),
            near_case("bytearray", _make_bytearrays, plan.seconds),
        ]
        row.figures = in_turns(cases, plan.rounds)
    row.add_ratio("<= 4 x bytearray(1024)", "shmhub", "bytearray", 4.0, "2 x")
    return [row]


if __name__ == "__main__":
    sys.exit(run_alone(Path(__file__).stem))
