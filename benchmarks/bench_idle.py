"""What does an idle hub cost? 31 attached peers, each asleep in `recv`, the host, too.

A tick is the kernel's unit of CPU time (10 ms); nanoseconds of run time are noted beside it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import shmhub

from .check import run_alone
from .harness import Plan
from .hub import TIMEOUT, make_config, start_child
from .report import Demand, Row
from .sides import BenchmarkError, Child

PEERS = 31
SETTLE_SECONDS = 10.0
ROWS = {"idle": "CPU of a hub with 31 idle attached peers"}


def ticks_of(pid: int) -> int:
    """utime + stime, of all threads."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(after_name[11]) + int(after_name[12])


def run_time_of(pid: int) -> int:
    """Nanoseconds on a core, of all threads."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total


def _wait_until_asleep(pids: Iterable[int]) -> None:
    """Until nobody has run between two looks: no event tells that a process has gone to sleep."""
    others = list(pids)
    give_up = time.monotonic() + SETTLE_SECONDS
    before = -1
    while time.monotonic() < give_up:
        now = sum(run_time_of(pid) for pid in others)
        if now == before:
            return
        before = now
        time.sleep(0.2)


def _receive_until_closed(transport: shmhub.HubHostTransport) -> None:
    with contextlib.suppress(shmhub.HubClosedError):
        transport.recv()


def _attach(host: shmhub.HubHost, children: list[Child]) -> None:
    infos = (host.add_peer(f"idle-{number}") for number in range(PEERS))
    children.extend(start_child(info, "sync") for info in infos)
    for child in children:
        child.ready()


def _measure_sleep(row: Row, children: list[Child], seconds: float) -> None:
    me, others = os.getpid(), [child.pid for child in children]
    _wait_until_asleep(others)
    # The host last before and first after: looking at the others costs it time.
    peer_ticks, peer_time = sum(map(ticks_of, others)), sum(map(run_time_of, others))
    host_ticks, host_time = ticks_of(me), run_time_of(me)
    time.sleep(seconds)  # the interval that is asked about
    host_time, host_ticks = run_time_of(me) - host_time, ticks_of(me) - host_ticks
    peer_time = sum(map(run_time_of, others)) - peer_time
    peer_ticks = sum(map(ticks_of, others)) - peer_ticks
    row.demands.append(Demand(f"host 0 ticks in {seconds:g} s", host_ticks, 0, "", "ticks"))
    row.demands.append(Demand("31 peers 0 ticks", peer_ticks, 0, "", "ticks"))
    row.notes.append(
        f"run time: host {host_time / 1e3:.0f} us, peers together {peer_time / 1e3:.0f} us"
    )


def measure(plan: Plan) -> list[Row]:
    row = Row("idle", ROWS["idle"], 1)
    children: list[Child] = []
    with shmhub.HubHost.create(None, make_config(None)) as host:
        transport = shmhub.HubHostTransport(host)
        receiver = threading.Thread(target=_receive_until_closed, args=(transport,))
        try:
            _attach(host, children)
            receiver.start()
            for child in children:
                child.begin("wait_once", count=1)
            _measure_sleep(row, children, plan.idle_seconds)
            for status in host.peers:
                if status.peer_id != 0:
                    transport.send(b"", to=status.peer_id, timeout=TIMEOUT)
            for child in children:
                child.finish()
        finally:
            transport.close()
            if receiver.ident is not None:
                receiver.join(TIMEOUT)
            for child in children:
                child.stop()
        if receiver.is_alive():
            raise BenchmarkError("closing the transport did not wake the thread in recv")
    return [row]


if __name__ == "__main__":
    sys.exit(run_alone(Path(__file__).stem))
