"""What does a round trip cost from Python to Python, when nobody looks at the payload?

64 bytes, spinning: against the floor (a bare ring) and iceoryx2 polling.
64 bytes, sleeping at once (`spin=0`): against a pipe, where the kernel's wake-up is all there is.
16 MiB: a slot is handed over, not copied, so it may cost no more than the 64 bytes and an alloc.
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import native
from .check import run_alone
from .contenders import connected
from .contenders.faster_fifo import FasterFifo
from .contenders.floor import Floor
from .contenders.iceoryx2 import Iceoryx2
from .contenders.mp_pipe import MpPipe
from .contenders.process_pool import ProcessPool
from .contenders.shm_pipe import ShmPipe
from .contenders.zmq_ipc import ZmqIpc
from .harness import Case, Plan, echo_case, in_turns, near_case
from .hub import Hub
from .report import Demand, Row, show_time
from .sides import Link, pattern

SMALL = 64
LARGE = 16 << 20
SOCKETPAIR_NS = 20_000
"""About what one takes: the number of round trips in a batch is made from it."""
ALWAYS = 0.001
"""Seconds of spin, more than an answer takes. Shown, not judged: users have the default."""
SLEEPING_NS = 5_000
"""A round trip that takes longer went through the kernel."""
ROWS = {
    "round-trip-spin": "64 B round trip, spinning, untouched",
    "round-trip-sleep": "64 B round trip, spin=0",
    "round-trip-16m": "16 MiB round trip, untouched",
}


def _small_cases(links: dict[str, Link], plan: Plan) -> list[Case]:
    near = {"payload": pattern(SMALL, 1)}
    cases = [
        echo_case(name, link, near, seconds=plan.seconds, singles=plan.singles)
        for name, link in links.items()
    ]
    blocking = native.program("socketpair", with_core=False)
    trips = max(1000, int(plan.seconds * 1e9 / SOCKETPAIR_NS))
    cases.append(Case("C socketpair", lambda: native.run_program(blocking, "blocking", trips)))
    return cases


def _measure_small(plan: Plan) -> list[Row]:
    contenders = (
        Hub(),
        Hub(spin=0),
        Hub(spin=ALWAYS),
        Floor(),
        Iceoryx2(SMALL),
        Iceoryx2(SMALL, events=True),
        MpPipe(),
        ShmPipe(SMALL),
        FasterFifo(),
        ZmqIpc(),
        ProcessPool(),
    )
    with connected(contenders) as (links, reasons):
        series = in_turns(_small_cases(links, plan), plan.rounds, leave_out=True)
    spinning = Row("round-trip-spin", ROWS["round-trip-spin"], plan.rounds, absent=reasons)
    spinning.figures = series
    spinning.add_ratio("<= 2.2 x floor", "shmhub", "floor", 2.2, "1.5 x")
    spinning.add_ratio("<= 1/5 of iceoryx2 polling", "shmhub", "iceoryx2 polling", 0.2)
    sleeping = Row("round-trip-sleep", ROWS["round-trip-sleep"], plan.rounds, absent=reasons)
    names = ("shmhub spin=0", "mp.Pipe", "C socketpair")
    sleeping.figures = {name: series[name] for name in names if name in series}
    aim = "C socketpair"
    if aim in series:
        aim = f"a blocking socketpair in C, {show_time(series[aim].median)}"
    sleeping.add_ratio("<= 1.1 x mp.Pipe", "shmhub spin=0", "mp.Pipe", 1.1, aim)
    return [spinning, sleeping]


def _measure_large(plan: Plan) -> Row:
    row = Row("round-trip-16m", ROWS["round-trip-16m"], plan.rounds)
    small, large, pair = "64 B", "16 MiB", "alloc_nowait(16 MiB)+release"
    with connected([Hub()]) as (links, row.absent):
        if "shmhub" not in links:
            row.need("shmhub")
            return row
        link = links["shmhub"]
        cases = [
            echo_case(small, link, {"payload": pattern(SMALL, 1)}, seconds=plan.seconds, singles=0),
            echo_case(
                large,
                link,
                {"size": LARGE},
                verb="echo_slot",
                seconds=plan.seconds,
                singles=plan.singles,
            ),
            near_case(pair, lambda count: link.near.alloc_release(count, LARGE), plan.seconds),
        ]
        row.figures = in_turns(cases, plan.rounds)
    if row.figures[small].median > SLEEPING_NS:
        row.notes.append("64 B did not spin here: beside a wake-up an alloc can hardly be seen")
    base, whole, alloc = (row.figures[name].median for name in (small, large, pair))
    row.demands.append(
        Demand(
            "<= 64 B's + 4 x alloc_nowait+release",
            (whole - base) / alloc,
            4.0,
            "+ 2 x",
            "x alloc_nowait+release above 64 B",
        )
    )
    return row


def measure(plan: Plan) -> list[Row]:
    return [*_measure_small(plan), _measure_large(plan)]


if __name__ == "__main__":
    sys.exit(run_alone(Path(__file__).stem))
