"""What does a large payload cost when both sides write and read every byte of it?

16 MiB and 100 MiB, there and back. By hand (SharedMemory and a Pipe) is the least that moving it
through memory can cost; a pipe copies it twice more. The first time a slot is used it is backed
with memory, which is not asked here: one round is thrown away.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .check import run_alone
from .contenders import connected
from .contenders.mp_pipe import MpPipe
from .contenders.process_pool import ProcessPool
from .contenders.shm_pipe import ShmPipe
from .contenders.zmq_ipc import ZmqIpc
from .harness import Plan, in_turns, swap_case
from .hub import Hub
from .report import Row

MIB = 1 << 20
SIZES = {16 * MIB: ("16 MiB", 6), 100 * MIB: ("100 MiB", 2)}
ROWS = {"large": "16 MiB and 100 MiB round trip, written and read on both sides"}


def _measure_size(plan: Plan, row: Row, size: int) -> None:
    spelled, count = SIZES[size]
    contenders = [Hub(), ShmPipe(size)]
    if size <= 16 * MIB:
        contenders += [MpPipe(), ZmqIpc(), ProcessPool()]
    with connected(contenders) as (links, reasons):
        # The slow ones only need to be placed, not measured finely.
        fine = ("shmhub", ShmPipe.name)
        cases = [
            swap_case(f"{name} {spelled}", link, size, count if name in fine else 2)
            for name, link in links.items()
        ]
        row.figures.update(in_turns(cases, plan.rounds))
        row.absent.extend(reasons)
    by_hand = f"{ShmPipe.name} {spelled}"
    asked = f"{spelled} <= 1.1 x SharedMemory by hand"
    row.add_ratio(asked, f"shmhub {spelled}", by_hand, 1.1, "1.02 x")


def measure(plan: Plan) -> list[Row]:
    row = Row("large", ROWS["large"], plan.rounds)
    for size in SIZES:
        _measure_size(plan, row, size)
    row.add_ratio("16 MiB <= 1/12 of mp.Pipe", "shmhub 16 MiB", "mp.Pipe 16 MiB", 1 / 12)
    hand, pipe = row.figures.get(f"{ShmPipe.name} 16 MiB"), row.figures.get("mp.Pipe 16 MiB")
    if hand and pipe:
        row.notes.append(
            f"SharedMemory by hand itself is 1/{pipe.median / hand.median:.1f} of mp.Pipe here"
        )
    return [row]


if __name__ == "__main__":
    sys.exit(run_alone(Path(__file__).stem))
