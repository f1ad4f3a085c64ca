"""What does a long life cost a plugin's host, and how soon is a killed plugin's work done?

A million calls, ten thousand streams and three hundred restarts leave nothing behind; the calls
that were in flight when a plugin was killed are answered by its successor; an event loop goes on
while large calls run.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import statistics
import sys
import time
from pathlib import Path

import numpy

import shmhub

from .callers import START_SECONDS, TARGET, PluginCaller, environment
from .check import run_alone
from .harness import Plan, Series
from .report import Demand, Row
from .sides import BenchmarkError, pattern, watchdog

CALLS, STREAMS, RESTARTS = 1_000_000, 10_000, 300
WARM_CALLS, WARM_STREAMS, WARM_RESTARTS = 50_000, 1_000, 20
MIB = 1 << 20
LIFE_SECONDS = 900.0
KILLS = 24
FLYING = 100
LINGER = 0.002
LOOP_SECONDS = 3.0
ROWS = {
    "plugin-growth": "host after 10^6 calls, 10^4 streams, 300 restarts",
    "plugin-restart": "SIGKILL with 100 calls in flight, to all answered by the successor",
    "loop-blocked": "an event loop while 16 MiB calls run: longest blocked stretch",
}
EAGER = {"max_restarts": 1_000_000, "backoff": 0.0}


def _memory() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _state(host: shmhub.PluginHost) -> tuple[int, int]:
    """Slots in use, descriptors."""
    classes = host.statistics().size_classes
    used = sum(one.owned + one.in_ring + one.shared for one in classes)
    return used, len(os.listdir("/proc/self/fd"))


def _live(caller: PluginCaller, calls: int, streams: int, restarts: int) -> None:
    payload, echo = pattern(64, 1), caller.handle.echo
    for _ in range(calls):
        echo(payload)
    for _ in range(streams):
        with caller.handle.stream("count", 20) as numbers:
            for _ in numbers:
                pass
    for _ in range(restarts):
        pid = caller.handle.pid
        caller.handle.restart()
        echo(payload)
        if caller.handle.pid == pid:
            raise BenchmarkError("restart() left the old process")


def _scaled(scale: float, *counts: int) -> list[int]:
    return [max(1, int(number * scale)) for number in counts]


def _measure_growth(plan: Plan) -> Row:
    row = Row("plugin-growth", ROWS["plugin-growth"], 1)
    scale = 1.0 if plan.rounds >= 9 else plan.rounds / 100  # fewer rounds: not to quote
    with watchdog(LIFE_SECONDS), PluginCaller() as caller:
        _live(caller, *_scaled(scale, WARM_CALLS, WARM_STREAMS, WARM_RESTARTS))
        before, memory = _state(caller.host), _memory()
        counts = _scaled(scale, CALLS, STREAMS, RESTARTS)
        _live(caller, *counts)
        after, grown = _state(caller.host), _memory() - memory
    row.notes.append("{} calls, {} streams, {} restarts".format(*counts))
    slots, fds = (after[i] - before[i] for i in range(2))
    row.demands.append(Demand("slots equal", float(abs(slots)), 0.0, "", "slots"))
    row.demands.append(Demand("descriptors equal", float(abs(fds)), 0.0, "", "descriptors"))
    row.demands.append(
        Demand("resident memory within 1 MiB", max(0, grown) / MIB, 1.0, "", "MiB more")
    )
    return row


def _measure_restart(plan: Plan) -> Row:
    row = Row("plugin-restart", ROWS["plugin-restart"], plan.rounds, shown_only=True)
    kills = max(3, KILLS * plan.rounds // 9)
    answered, starts = Series(), Series()
    with watchdog(LIFE_SECONDS), shmhub.PluginHost(restart=shmhub.RestartPolicy(**EAGER)) as host:
        begin = time.perf_counter_ns()
        handle = host.spawn(
            TARGET, env=environment(), start_timeout=START_SECONDS, max_attempts=kills
        )
        starts.rounds.append(time.perf_counter_ns() - begin)
        for _ in range(kills):
            calls = [handle.submit("linger", LINGER) for _ in range(FLYING)]
            calls[0].result()
            pid = handle.pid
            begin = time.perf_counter_ns()
            os.kill(pid, signal.SIGKILL)
            for call in calls:
                call.result(START_SECONDS)
            answered.singles.append(time.perf_counter_ns() - begin - int(FLYING * LINGER * 1e9))
        for _ in range(5):
            begin = time.perf_counter_ns()
            handle.restart()
            starts.rounds.append(time.perf_counter_ns() - begin)
    answered.rounds = [float(single) for single in answered.singles]
    row.figures = {
        "kill to all answered, without their own 200 ms": answered,
        "a start of that plugin alone": starts,
    }
    return row


async def _blocked(seconds: float) -> list[int]:
    """For each of the 16 MiB calls of two tasks: the longest time (ns) in which the loop had no
    turn while that call ran."""
    array = numpy.ones(16 * MIB, numpy.uint8)
    stretches: list[int] = []
    longest = [0, 0]
    async with shmhub.aio.PluginHost() as host:
        handle = await host.spawn(TARGET, env=environment(), start_timeout=START_SECONDS)
        await handle.read(array)
        until = time.monotonic() + seconds

        async def call(number: int) -> None:
            while time.monotonic() < until:
                longest[number] = 0
                await handle.read(array)
                await asyncio.sleep(0)
                stretches.append(longest[number])

        async def watch() -> None:
            before = time.perf_counter_ns()
            while time.monotonic() < until:
                await asyncio.sleep(0)
                now = time.perf_counter_ns()
                for number in range(2):
                    longest[number] = max(longest[number], now - before)
                before = now

        await asyncio.gather(call(0), call(1), watch())
    return stretches


def _measure_loop(plan: Plan) -> Row:
    row = Row("loop-blocked", ROWS["loop-blocked"], plan.rounds)
    stretches = Series()
    for _ in range(plan.rounds):
        found = asyncio.run(_blocked(LOOP_SECONDS / 3))
        stretches.rounds.append(statistics.median(found))
        stretches.singles.extend(found)
    row.figures = {"longest stretch without a turn during a call": stretches}
    row.demands.append(Demand("p99 <= 5 ms", (stretches.p99 or 0.0) / 1e6, 5.0, "1 ms", "ms"))
    return row


def measure(plan: Plan) -> list[Row]:
    parts = {
        "plugin-growth": _measure_growth,
        "plugin-restart": _measure_restart,
        "loop-blocked": _measure_loop,
    }
    return [part(plan) for key, part in parts.items() if plan.wants(key)]


if __name__ == "__main__":
    sys.exit(run_alone(Path(__file__).stem))
