"""How long does the death of a peer last for the others?

From SIGKILL until all of its slots are free again, and until a call of the host that waits for it
has raised: receiving, sending on a full ring, allocating from an empty pool. One new process a
kill, in C; each figure is of single kills, so the median is p50. Nothing is asked of these figures:
they are shown.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import shmhub

from . import native
from .check import run_alone
from .harness import Plan, Series
from .hub import TIMEOUT
from .report import Row, show_time
from .sides import BenchmarkError, watchdog

HELD = 200
"""Slots that the peer holds when it is killed."""
SLOTS = 256
SLOT_SIZE = 1024
SLEEP_LOOKS = 6
ROWS = {"recovery": "from SIGKILL of a peer until others can go on"}

Begin = Callable[[shmhub.HubHostPeerTransport], object]


def _config() -> shmhub.HubConfig:
    classes = (shmhub.SizeClass(SLOT_SIZE, SLOTS, SLOTS),)
    return shmhub.HubConfig(size_classes=classes, max_peers=4, ring_capacity=64)


@contextlib.contextmanager
def _victim(
    host: shmhub.HubHost, program: Path, slots: int
) -> Iterator[tuple[shmhub.HubHostPeerTransport, subprocess.Popen[bytes]]]:
    """An attached peer that holds so many slots, and the host's transport to it."""
    info = host.add_peer("victim")
    with shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
        process = info.popen([str(program), f"--slots={slots}"])
        try:
            transport.recv(timeout=TIMEOUT).release()
            yield transport, process
        finally:
            process.kill()
            process.wait()


def _owned(host: shmhub.HubHost) -> int:
    return sum(one.slots - one.free for one in host.statistics().size_classes)


def _until_slots_are_free(host: shmhub.HubHost, program: Path) -> int:
    """ns; looked at without a pause, so to within one call of statistics()."""
    with _victim(host, program, HELD) as (_, process):
        if _owned(host) != HELD:
            raise BenchmarkError(f"the peer holds {_owned(host)} slots instead of {HELD}")
        begin = time.perf_counter_ns()
        process.kill()
        while _owned(host):
            pass
        return time.perf_counter_ns() - begin


class _Waiter:
    """A thread of the host that waits in one call until that raises PeerGoneError."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._raised_at = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        try:
            self._call()
        except shmhub.PeerGoneError:
            self._raised_at = time.perf_counter_ns()
        except BaseException as error:
            self._error = error

    def wait_asleep(self) -> None:
        """Until it was seen sleeping several times in a row: no event tells that."""
        seen = 0
        while seen < SLEEP_LOOKS and self._thread.is_alive():
            fields = Path(f"/proc/self/task/{self._thread.native_id}/stat").read_text()
            seen = seen + 1 if fields.rpartition(")")[2].split()[0] == "S" else 0
            time.sleep(0.0005)

    def raised_at(self) -> int:
        self._thread.join(TIMEOUT)
        if not self._raised_at:
            raise BenchmarkError(f"the waiting call raised no PeerGoneError: {self._error!r}")
        return self._raised_at


def _until_raised(host: shmhub.HubHost, program: Path, call: Begin) -> int:
    """ns from the kill until `call`, which waits in a thread of its own, has raised."""
    with _victim(host, program, 0) as (transport, process):
        waiter = _Waiter(lambda: call(transport))
        waiter.wait_asleep()
        begin = time.perf_counter_ns()
        process.kill()
        return waiter.raised_at() - begin


def _receive(transport: shmhub.HubHostPeerTransport) -> object:
    return transport.recv()


def _send_until_full(transport: shmhub.HubHostPeerTransport) -> object:
    while True:
        transport.send(b"x")  # nobody reads: this fills the ring, then waits


def _empty_the_pool(transport: shmhub.HubHostPeerTransport) -> object:
    held = []
    while True:
        held.append(transport.alloc(SLOT_SIZE))


def measure(plan: Plan) -> list[Row]:
    row = Row("recovery", ROWS["recovery"], plan.kills, shown_only=True)
    program = native.peer_program("holder")
    with shmhub.HubHost.create(None, _config()) as host:
        operations: dict[str, Callable[[], int]] = {
            f"its {HELD} slots are free": lambda: _until_slots_are_free(host, program),
            "recv has raised": lambda: _until_raised(host, program, _receive),
            "send on a full ring has raised": lambda: _until_raised(
                host, program, _send_until_full
            ),
            "alloc on an empty pool has raised": lambda: _until_raised(
                host, program, _empty_the_pool
            ),
        }
        row.figures = {name: Series() for name in operations}
        for _ in range(plan.kills):
            for name, operation in operations.items():  # in turns, as everywhere
                with watchdog():
                    nanoseconds = operation()
                row.figures[name].rounds.append(float(nanoseconds))
                row.figures[name].singles.append(nanoseconds)
        before = time.perf_counter_ns()
        _owned(host)
        row.notes.append(
            f"{plan.kills} kills each; p50 is the median; a look at the slots takes "
            f"{show_time(time.perf_counter_ns() - before)}; {len(os.sched_getaffinity(0))} cores"
        )
    return [row]


if __name__ == "__main__":
    sys.exit(run_alone(Path(__file__).stem))
