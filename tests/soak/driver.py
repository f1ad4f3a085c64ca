"""One soak: keeps 16 peers busy and does to them, at random, whatever may happen to a process.

The decisions come from the seed; how processes and threads interleave does not, so a seed repeats
what was done and not what came of it. Ends early at the first thing that is wrong.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import shmhub
from tests.soak import capacity, report
from tests.soak.board import Order
from tests.soak.crew import Crew, build_echo_peer
from tests.soak.ledger import PATIENCE, Kind, Wrong
from tests.soak.messages import configuration
from tests.soak.traffic import Traffic
from tests.support.leaks import open_descriptors, resident_bytes
from tests.support.nursery import Nursery

# 16 peers: twelve in Python, two in C, two that lie.
_PLACES = [Kind.PYTHON] * 12 + [Kind.ECHO] * 2 + [Kind.LIAR] * 2
_LAST_RESORT = 480.0  # for the driver's own thread, checkpoints included
_LONGEST_STOP = 1.5  # the waits of peers and host run out after 0.05 and 0.2 s
_PROGRESS_EVERY = 5.0
_LONGEST_PHASE = 120.0
_RESIDENT_ALLOWED = 16 << 20  # the allocator of the C library keeps what large payloads left


class Soak:
    """Use: `Soak(...).run()`; the totals are complete when it returns without raising."""

    def __init__(self, seconds: float, seed: int, kills_per_second: float) -> None:
        self._seconds = seconds
        self._seed = seed
        self._pause = 1.0 / (2.0 * kills_per_second)  # every second action kills
        self._rng = random.Random(f"{seed}/driver")
        self._failures: list[BaseException] = []
        self._failed = threading.Event()
        self.totals = report.Totals(seed)

    def run(self) -> None:
        """Raises the first failure, after everything has been ended."""
        nursery = Nursery(preload=("tests.soak.peer", "tests.soak.liar"))
        try:
            with tempfile.TemporaryDirectory() as folder:
                self._with_hub(nursery, build_echo_peer(Path(folder)))
            gc.collect()
            self._compare_with_the_start()
        finally:
            nursery.close()
            faulthandler.cancel_dump_traceback_later()

    def _with_hub(self, nursery: Nursery, echo: Path) -> None:
        self._warm_up()
        totals = self.totals
        totals.descriptors_before = len(open_descriptors(os.getpid()))
        with shmhub.HubHost.create(None, configuration()) as host:
            totals.memory_new = capacity.memory_of(host)
            crew = Crew(host, nursery, echo, self._seed)
            try:
                self._work(host, crew)
            finally:
                crew.close()
                totals.add_up(host, crew)

    def _warm_up(self) -> None:
        """What the first hub of a process loads and keeps is no leak."""
        with shmhub.HubHost.create(None, configuration()) as host:
            host.add_peer("warm")
            host.statistics()

    def _compare_with_the_start(self) -> None:
        totals = self.totals
        totals.descriptors_after = len(open_descriptors(os.getpid()))
        totals.resident_after = resident_bytes()
        if totals.descriptors_after != totals.descriptors_before:
            raise Wrong(
                f"{totals.descriptors_before} descriptors at the start, "
                f"{totals.descriptors_after} at the end"
            )
        if totals.resident_after > totals.resident_before + _RESIDENT_ALLOWED:
            raise Wrong(
                f"resident memory grew from {totals.resident_before} to {totals.resident_after}"
            )

    # ---- the work ------------------------------------------------------------------------

    def _work(self, host: shmhub.HubHost, crew: Crew) -> None:
        """Phase after phase: one transport for all in one, a transport for each in the next."""
        begin = time.monotonic()
        end = begin + self._seconds
        length = min(_LONGEST_PHASE, self._seconds / 2)
        while (left := end - time.monotonic()) > 0:
            # What remains is shared out, so that none is too short to be worth its beginning.
            phase = left if left < 1.5 * length else length
            self.totals.phases += 1
            traffic = Traffic(
                host,
                self.totals.traffic,
                f"{self._seed}/{self.totals.phases}",
                self._fail,
                shared=self.totals.phases % 2 == 1,
            )
            try:
                self._phase(host, crew, traffic, begin, time.monotonic() + phase)
            except BaseException as error:
                report.dump(error, host, crew)
                raise
            finally:
                crew.end_all()
                traffic.close()
            self._raise_failure()

    def _phase(
        self, host: shmhub.HubHost, crew: Crew, traffic: Traffic, begin: float, end: float
    ) -> None:
        for kind in _PLACES:
            crew.start(kind, traffic)
        progress, moved_at = -1, time.monotonic()
        next_report = moved_at + _PROGRESS_EVERY
        while (now := time.monotonic()) < end:
            faulthandler.dump_traceback_later(_LAST_RESORT, exit=True)
            self._raise_failure()
            self._act(host, crew, traffic)
            if traffic.progress() != progress:
                progress, moved_at = traffic.progress(), now
            elif now > moved_at + PATIENCE:
                raise Wrong(f"no message has moved for {PATIENCE:g} s")
            if now >= next_report:
                next_report = now + _PROGRESS_EVERY
                report.progress(now - begin, self._seconds, host, self.totals, crew)
        self._rest_and_count(host, traffic, crew)
        self._leave_and_count(host, traffic, crew)

    def _act(self, host: shmhub.HubHost, crew: Crew, traffic: Traffic) -> None:
        """One random thing after a random pause: the moment is a part of what is random."""
        self._failed.wait(self._rng.expovariate(1.0 / self._pause))
        choices: list[tuple[float, Callable[[], object]]] = [
            (50, crew.kill_one),
            (10, lambda: crew.kill_one(Kind.LIAR)),
            (25, lambda: crew.stop_one(self._rng.uniform(0.01, _LONGEST_STOP))),
            (15, lambda: self._trim(host)),
            (8, lambda: self._repair(host)),
        ]
        weights = [weight for weight, _ in choices]
        self._rng.choices([action for _, action in choices], weights)[0]()
        crew.continue_those_due()
        for kind in crew.collect():
            crew.start(kind, traffic)
            self.totals.restarts += 1

    def _trim(self, host: shmhub.HubHost) -> None:
        self.totals.trims += 1
        self.totals.trimmed += host.trim()

    def _repair(self, host: shmhub.HubHost) -> None:
        """Beside all else: what liars took from everybody comes back before the phase ends."""
        self.totals.repairs += 1
        self.totals.repaired += host.fsck(repair=True).repaired

    def _rest_and_count(self, host: shmhub.HubHost, traffic: Traffic, crew: Crew) -> None:
        """Everybody stays and lets go of everything: every slot must be there."""
        faulthandler.dump_traceback_later(_LAST_RESORT, exit=True)
        crew.continue_those_due(all_of_them=True)
        crew.kill_all(Kind.LIAR)
        crew.board.tell(Order.REST, True)
        traffic.rest()
        self.totals.memory_peak = max(self.totals.memory_peak, capacity.memory_of(host))
        self.totals.proved(capacity.prove(host, traffic.allocator))
        self._raise_failure()
        crew.board.tell(Order.REST, False)

    def _leave_and_count(self, host: shmhub.HubHost, traffic: Traffic, crew: Crew) -> None:
        """Everybody leaves in good order: again every slot, and nothing grows."""
        crew.board.tell(Order.STOP, True)
        crew.wait_until_gone()
        crew.board.tell(Order.STOP, False)
        self.totals.proved(capacity.prove(host, traffic.allocator))
        if self.totals.phases <= 2:  # both kinds of transport have been used once
            self.totals.resident_before = resident_bytes()
        self._raise_failure()

    # ---- failures ------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        self._failures.append(error)
        self._failed.set()

    def _raise_failure(self) -> None:
        if self._failures:
            raise self._failures[0]
