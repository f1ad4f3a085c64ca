"""What does a round trip cost between two event loops? Against streams over a Unix socket."""

from __future__ import annotations

import sys
from pathlib import Path

from .check import run_alone
from .contenders import connected
from .contenders.asyncio_unix import AsyncioUnix
from .harness import Plan, echo_case, in_turns
from .hub import Hub
from .report import Row
from .sides import pattern

ROWS = {"asyncio": "asyncio 64 B round trip, default spin and spin=0"}


def measure(plan: Plan) -> list[Row]:
    row = Row("asyncio", ROWS["asyncio"], plan.rounds)
    near = {"payload": pattern(64, 1)}
    contenders = [Hub(kind="asyncio"), Hub(kind="asyncio", spin=0), AsyncioUnix()]
    with connected(contenders) as (links, reasons):
        cases = [
            echo_case(name, link, near, seconds=plan.seconds, singles=plan.singles)
            for name, link in links.items()
        ]
        row.figures = in_turns(cases, plan.rounds)
    row.absent.extend(reasons)
    streams = AsyncioUnix.name
    row.add_ratio("<= 1/3 of a Unix socket", "shmhub asyncio", streams, 1 / 3, "1/8")
    row.add_ratio("spin=0 <= 1.0 of it", "shmhub asyncio spin=0", streams, 1.0, "0.7")
    return [row]


if __name__ == "__main__":
    sys.exit(run_alone(Path(__file__).stem))
