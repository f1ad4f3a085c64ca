"""What a soak prints: a line every few seconds, the totals, everything when it fails."""

from __future__ import annotations

import faulthandler
import os
import platform
import sys
import traceback
from collections import Counter

import shmhub
from shmhub import _inspect
from tests.soak.capacity import Proof, memory_of
from tests.soak.crew import Crew
from tests.soak.ledger import Kind

_MIB = 1 << 20


class Totals:
    """What a whole soak has counted."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.restarts = self.trims = self.trimmed = 0
        self.repairs = self.repaired = self.phases = self.proofs = self.slots_proved = 0
        self.descriptors_before = self.descriptors_after = 0
        self.resident_before = self.resident_after = 0
        self.memory_new = self.memory_peak = self.memory_after_trim = 0
        self.traffic: Counter[str] = Counter()
        self.crew: Counter[str] = Counter()
        self.deaths = self.detaches = self.reclaimed = self.violations = 0

    def proved(self, proof: Proof) -> None:
        self.proofs += 1
        self.repaired += proof.repaired
        self.slots_proved = proof.slots
        self.memory_after_trim = proof.taken

    def add_up(self, host: shmhub.HubHost, crew: Crew) -> None:
        found = host.statistics()
        self.crew = crew.totals
        self.deaths, self.detaches = found.deaths, found.detaches
        self.reclaimed, self.violations = found.reclaimed, found.violations

    def show(self, seconds: float, failed: bool) -> None:
        moved, crew = self.traffic, self.crew
        messages = moved["messages up"] + moved["messages down"] + moved["messages passed on"]
        amount = moved["bytes up"] + moved["bytes down"]
        lines = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.release()}, "
            f"Python {platform.python_version()}, shmhub {shmhub.__version__}",
            "seed": str(self.seed),
            "time": f"{seconds:.0f} s",
            "messages": f"{messages:,} ({moved['messages up']:,} up, {moved['messages down']:,} "
            f"down, {moved['messages passed on']:,} passed on)",
            "bytes": f"{amount / 2**30:.2f} GiB",
            "lives": f"{crew['lives']:,}, restarts {self.restarts:,}, "
            f"orderly leaves {crew['orderly leaves']:,} (host: {self.deaths:,} deaths, "
            f"{self.detaches:,} leaves, {self.reclaimed:,} slots reclaimed)",
            "kills": f"{crew['kills']:,}",
            "stops": f"{crew['stops']:,}",
            "exhausted": f"{crew['exhausted'] + moved['exhausted']:,} times, "
            f"{crew['timeouts'] + moved['ring full']:,} time-outs and full rings",
            "trims": f"{self.trims:,}, {self.trimmed / _MIB:,.0f} MiB given back",
            "scribbles": f"{crew['scribbles']:,} by {crew['liars']:,} liars; "
            f"violations counted {self.violations:,}",
            "fsck": f"{self.repairs:,} repairs beside the traffic and one before each proof of "
            f"capacity; {self.repaired:,} things repaired, after the latter none left",
            "held": f"{crew['held and checked again']:,} frames checked again after being held",
            "capacity": f"{self.slots_proved} slots, all classes to the last, "
            f"proved {self.proofs} times in {self.phases} phases",
            "slots lost": "0" if not failed else "see the failure",
            "messages wrong": "0" if not failed else "see the failure",
            "descriptors": f"{self.descriptors_before} at the start, {self.descriptors_after} "
            "at the end",
            "resident": f"{self.resident_before / _MIB:.1f} MiB after the second phase, "
            f"{self.resident_after / _MIB:.1f} MiB at the end",
            "hub memory": f"{self.memory_new / _MIB:.2f} MiB new, {self.memory_peak / _MIB:.1f} "
            f"MiB at work, {self.memory_after_trim / _MIB:.2f} MiB after the last trim",
        }
        for name, text in lines.items():
            print(f"{name:<15} {text}")
        sys.stdout.flush()


def progress(
    elapsed: float, seconds: float, host: shmhub.HubHost, totals: Totals, crew: Crew
) -> None:
    moved, done = totals.traffic, crew.totals
    living = Counter(member.kind for member in crew.members if not member.killed)
    print(
        f"{elapsed:6.0f}/{seconds:.0f} s  up {moved['messages up']:,}  "
        f"down {moved['messages down']:,}  passed on {moved['messages passed on']:,}  "
        f"kills {done['kills']:,}  stops {done['stops']:,}  lives {done['lives']:,} "
        f"({', '.join(f'{living[kind]} {kind.value}' for kind in Kind)})  "
        f"exhausted {done['exhausted'] + moved['exhausted']:,}  "
        f"hub {memory_of(host) / _MIB:.0f} MiB",
        flush=True,
    )


def dump(error: BaseException, host: shmhub.HubHost, crew: Crew) -> None:
    """Everything there is to know at the moment of a failure."""
    out = sys.stderr
    print("\n=== FAILED: the hub and everybody in it ===", file=out)
    traceback.print_exception(error, file=out)
    try:
        for found in _inspect.find(f"fd:{host.fileno()}"):
            print(_inspect.describe(found), file=out)
        for member in crew.members:
            print(member, file=out)
    except Exception:
        traceback.print_exc(file=out)
    print("--- the driver's threads:", file=out, flush=True)
    faulthandler.dump_traceback(out, all_threads=True)
    print(crew.stacks(), file=out, flush=True)
