"""What does a call of a plugin's method cost?

64 bytes there and back; an array there and back, written by the caller, read on both sides; a
thousand calls in flight on two replicas. The method gives its argument back.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy

from .callers import Caller, PluginCaller, PoolCaller, RayCaller, call_case, started
from .check import run_alone
from .contenders import connected
from .contenders.floor import Floor
from .contenders.shm_pipe import ShmPipe
from .harness import Case, Plan, echo_case, in_turns, swap_case
from .report import Row
from .sides import Desk, pattern, watchdog

SMALL = 64
MIB = 1 << 20
IN_FLIGHT = 1000
FLIGHT_CALLS = 5_000
"""A batch; the pool takes a second for that many."""
ROWS = {
    "call-64": "plugin call with 64 B, spinning",
    "call-64-sleep": "plugin call with 64 B, spin=0",
    "call-array": "plugin call with an ndarray in and out, written and read",
    "calls-in-flight": "1,000 calls in flight, 2 replicas",
}


def _measure_small(plan: Plan) -> list[Row]:
    payload = pattern(SMALL, 1)
    callers = (PluginCaller(), PluginCaller(spin=0), PoolCaller())
    with connected([Floor()]) as (links, absent), started(callers) as (running, reasons):
        cases = [call_case(caller, payload, plan.seconds) for caller in running.values()]
        cases += [
            echo_case(name, link, {"payload": payload}, seconds=plan.seconds, singles=plan.singles)
            for name, link in links.items()
        ]
        figures = in_turns(cases, plan.rounds)
    spinning = Row("call-64", ROWS["call-64"], plan.rounds, absent=[*absent, *reasons])
    spinning.figures = figures
    spinning.add_ratio("<= 12 x floor", "shmhub", "floor", 12.0, "6 x")
    sleeping = Row("call-64-sleep", ROWS["call-64-sleep"], plan.rounds, absent=reasons)
    names = ("shmhub spin=0", PoolCaller.name)
    sleeping.figures = {name: figures[name] for name in names if name in figures}
    asked = "<= 1/3 of ProcessPoolExecutor"
    sleeping.add_ratio(asked, "shmhub spin=0", PoolCaller.name, 1 / 3, "1/5")
    return [spinning, sleeping]


def _array_case(caller: Caller, label: str, size: int, count: int) -> Case:
    """Written here, read there, read here; the sum is compared each time."""
    desk = Desk(size, near=True)
    array = numpy.zeros(size, numpy.uint8)
    desk.write(array)
    desk.expect_own()

    def batch() -> float:
        call, write, read = caller.call, desk.write, desk.read
        with watchdog():
            call("read", array)
            begin = time.perf_counter_ns()
            for _ in range(count):
                write(array)
                read(call("read", array))
            return (time.perf_counter_ns() - begin) / count

    return Case(f"{caller.name} {label}", batch)


def _measure_arrays(plan: Plan) -> Row:
    row = Row("call-array", ROWS["call-array"], plan.rounds)
    callers = (PluginCaller(), PoolCaller(), RayCaller())
    with (
        connected([ShmPipe(MIB)]) as (one, _),
        connected([ShmPipe(16 * MIB)]) as (sixteen, _),
        started(callers) as (running, row.absent),
    ):
        for label, size, links in (("1 MiB", MIB, one), ("16 MiB", 16 * MIB, sixteen)):
            fine = 60 if size == MIB else 6
            cases = [
                _array_case(caller, label, size, fine if name == "shmhub" else 3)
                for name, caller in running.items()
            ]
            cases += [
                swap_case(f"{name} {label}", link, size, fine) for name, link in links.items()
            ]
            row.figures.update(in_turns(cases, plan.rounds))
    for label, limit in (("1 MiB", 15), ("16 MiB", 20)):
        asked = f"{label} <= 1/{limit} of ProcessPoolExecutor"
        pool = f"{PoolCaller.name} {label}"
        row.add_ratio(asked, f"shmhub {label}", pool, 1 / limit, "1.3 x by hand")
    if f"{RayCaller.name} 16 MiB" in row.figures:
        asked = "16 MiB <= 1/3 of a Ray actor"
        row.add_ratio(asked, "shmhub 16 MiB", f"{RayCaller.name} 16 MiB", 1 / 3)
    else:
        row.notes.append("16 MiB <= 1/3 of a Ray actor: not judged, Ray is not installed")
    return row


def _flight_case(caller: Caller) -> Case:
    payload = pattern(SMALL, 1)

    def batch() -> float:
        submit: Callable = caller.submit
        with watchdog():
            begin = time.perf_counter_ns()
            flying = [submit("echo", payload) for _ in range(IN_FLIGHT)]
            for number in range(FLIGHT_CALLS - IN_FLIGHT):
                place = number % IN_FLIGHT
                flying[place].result()
                flying[place] = submit("echo", payload)
            for future in flying:
                future.result()
            return (time.perf_counter_ns() - begin) / FLIGHT_CALLS

    return Case(caller.name, batch)


def _measure_flight(plan: Plan) -> Row:
    row = Row("calls-in-flight", ROWS["calls-in-flight"], plan.rounds, per_second=True)
    with started((PluginCaller(replicas=2), PoolCaller(2))) as (running, row.absent):
        row.figures = in_turns([_flight_case(caller) for caller in running.values()], plan.rounds)
    asked = ">= 8 x ProcessPoolExecutor(2)"
    row.add_ratio(asked, "shmhub", PoolCaller.name, 8.0, "20 x", inverse=True)
    return row


def measure(plan: Plan) -> list[Row]:
    rows = []
    if plan.wants("call-64") or plan.wants("call-64-sleep"):
        rows += _measure_small(plan)
    if plan.wants("call-array"):
        rows.append(_measure_arrays(plan))
    if plan.wants("calls-in-flight"):
        rows.append(_measure_flight(plan))
    return rows


if __name__ == "__main__":
    sys.exit(run_alone(Path(__file__).stem))
