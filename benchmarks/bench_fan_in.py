"""Does a host pay for peers that say nothing? One busy peer among 60 attached, and alone.

The busy peer publishes a burst that fits into its ring, then the host takes it without waiting:
what is timed is receiving alone, not how fast a peer can send.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import shmhub

from .check import run_alone
from .harness import Case, Plan, in_turns
from .hub import make_config, start_child
from .report import Row
from .sides import Child, watchdog

BURST = 100
"""64-byte messages take two of the ring's 256 cells each."""
BURSTS = 30
ROWS = {"fan-in": "host receive cost with 1 busy peer among 60 attached / among 1"}


@contextlib.contextmanager
def _hub_of(peers: int) -> Iterator[tuple[shmhub.HubHostTransport, Child]]:
    """A hub with so many attached peers; the busy one is the last to be added."""
    children: list[Child] = []
    with shmhub.HubHost.create(None, make_config(None, max_peers=64)) as host:
        transport = shmhub.HubHostTransport(host)
        try:
            infos = (host.add_peer(f"peer-{number}") for number in range(peers))
            children.extend(start_child(info, "sync") for info in infos)
            for child in children:
                child.ready()
            yield transport, children[-1]
        finally:
            for child in children:
                child.stop()
            transport.close()


def _receive_bursts(transport: shmhub.HubHostTransport, busy: Child) -> float:
    """ns a message."""
    receive, clock = transport.recv_nowait, time.perf_counter_ns
    total = 0
    with watchdog():
        for _ in range(BURSTS):
            busy.begin("burst", count=BURST, size=64)
            busy.finish()
            begin = clock()
            for _ in range(BURST):
                receive()
            total += clock() - begin
    return total / (BURSTS * BURST)


def measure(plan: Plan) -> list[Row]:
    row = Row("fan-in", ROWS["fan-in"], plan.rounds)
    with _hub_of(1) as alone, _hub_of(60) as crowd:
        cases = [
            Case("among 1", lambda: _receive_bursts(*alone)),
            Case("among 60", lambda: _receive_bursts(*crowd)),
        ]
        row.figures = in_turns(cases, plan.rounds)
    row.add_ratio("<= 1.2", "among 60", "among 1", 1.2, "1.0")
    return [row]


if __name__ == "__main__":
    sys.exit(run_alone(Path(__file__).stem))
