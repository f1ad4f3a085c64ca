"""How many messages a second go one way?

64 bytes ride in the ring, 1 KiB takes a slot each; one call a message, or many a call. A batch is
over when the receiver has had its last message.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .check import run_alone
from .contenders import Contender, connected
from .contenders.faster_fifo import FasterFifo
from .contenders.floor import Floor
from .contenders.mp_pipe import MpPipe
from .contenders.zmq_ipc import ZmqIpc
from .harness import Plan, in_turns, pour_case
from .hub import Hub
from .report import Row
from .sides import pattern

BATCH = 64
ROWS = {
    "one-way-64": "one way 64 B, single calls",
    "one-way-1k": "one way 1 KiB (a slot each), single calls",
    "one-way-many": "one way 64 B, send_many/recv_many",
}


def _measure_single(plan: Plan, key: str, size: int, times: float, aim: str) -> Row:
    contenders: list[Contender] = [Hub(), MpPipe(), FasterFifo(), ZmqIpc()]
    if size == 64:
        contenders.append(Floor())
    near = {"payload": pattern(size, 1)}
    row = Row(key, ROWS[key], plan.rounds, per_second=True)
    with connected(contenders) as (links, reasons):
        cases = [pour_case(name, link, near, seconds=plan.seconds) for name, link in links.items()]
        row.figures = in_turns(cases, plan.rounds)
    row.absent.extend(reasons)
    row.add_ratio(f">= {times:g} x mp.Pipe", "shmhub", "mp.Pipe", times, aim, inverse=True)
    return row


def _measure_many(plan: Plan) -> Row:
    row = Row("one-way-many", ROWS["one-way-many"], plan.rounds, per_second=True)
    near = {"payload": pattern(64, 1), "batch": BATCH}
    single = {"payload": pattern(64, 1)}
    far = {"batch": BATCH}
    with connected([Hub(), FasterFifo(), ZmqIpc()]) as (links, reasons):
        cases = []
        for name, link in links.items():
            if name == ZmqIpc.name:  # it has no call for many: it batches by itself
                cases.append(pour_case(name, link, single, seconds=plan.seconds))
            else:
                cases.append(
                    pour_case(
                        name,
                        link,
                        near,
                        verb="one_way_many",
                        far=far,
                        seconds=plan.seconds,
                        at=BATCH * 64,
                    )
                )
        row.figures = in_turns(cases, plan.rounds)
    row.absent.extend(reasons)
    rivals = [name for name in (FasterFifo.name, ZmqIpc.name) if name in row.figures]
    for name in (FasterFifo.name, ZmqIpc.name):
        row.need(name)
    if rivals:
        better = min(rivals, key=lambda name: row.figures[name].median)
        asked = ">= 5 x the better of faster-fifo and pyzmq"
        row.add_ratio(asked, "shmhub", better, 5.0, "8 M/s", inverse=True)
    return row


def measure(plan: Plan) -> list[Row]:
    return [
        _measure_single(plan, "one-way-64", 64, 6.0, "3 M/s"),
        _measure_single(plan, "one-way-1k", 1024, 4.0, "2 M/s"),
        _measure_many(plan),
    ]


if __name__ == "__main__":
    sys.exit(run_alone(Path(__file__).stem))
