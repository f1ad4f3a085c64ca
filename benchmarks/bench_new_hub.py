"""What does a hub cost that nobody has used yet: memory, and the time to make and close it?"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import shmhub

from .check import run_alone
from .harness import Plan, in_turns, near_case
from .report import Demand, Row

MIB = 1 << 20
BLOCK = 512  # the unit of st_blocks
ROWS = {"new-hub": "new default hub: memory, create+close"}


def _private_kib() -> int:
    """Memory of this process alone: anonymous pages and page tables, KiB."""
    total = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "VmPTE"):
            total += int(value.split()[0])
    return total


def _make_and_close(count: int) -> None:
    for _ in range(count):
        shmhub.HubHost.create().close()


def _look_at_memory(row: Row) -> None:
    before = _private_kib()
    with shmhub.HubHost.create() as host:
        blocks = os.fstat(host.fileno()).st_blocks * BLOCK
        said = host.statistics().memory_bytes
        private = _private_kib() - before
    taken = max(blocks, said)
    row.demands.append(Demand("< 2 MiB", taken / MIB, 2.0, "0.5 MiB", "MiB"))
    row.notes.append(
        f"st_blocks {blocks // 1024} KiB, memory_bytes {said // 1024} KiB, "
        f"private memory of the process grew by {private} KiB"
    )


def measure(plan: Plan) -> list[Row]:
    row = Row("new-hub", ROWS["new-hub"], plan.rounds)
    row.figures = in_turns([near_case("create+close", _make_and_close, plan.seconds)], plan.rounds)
    _look_at_memory(row)
    milliseconds = row.figures["create+close"].median / 1e6
    row.demands.append(Demand("< 3 ms", milliseconds, 3.0, "1 ms", "ms"))
    return [row]


if __name__ == "__main__":
    sys.exit(run_alone(Path(__file__).stem))
