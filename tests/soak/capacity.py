"""The proof that no slot is lost: every class allocated to its last slot while all is at rest."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

import shmhub
from tests.soak.ledger import PATIENCE, Wrong

_BLOCK = 512  # the unit of st_blocks


class Proof(NamedTuple):
    """What a proof of full capacity found."""

    repaired: int  # by the fsck before it
    slots: int
    given_back: int  # by the trim after it, bytes
    taken: int  # memory of the hub after that, bytes


def memory_of(host: shmhub.HubHost) -> int:
    """What the kernel says the hub takes, bytes."""
    return os.fstat(host.fileno()).st_blocks * _BLOCK


def prove(host: shmhub.HubHost, transport: Any) -> Proof:
    """Nobody else does anything, liars are dead. Raises Wrong if a slot is missing."""
    repaired = _check(host)
    _wait_until_free(host)
    slots = 0
    for entry in host.statistics().size_classes:
        slots += _take_all(transport, entry)
    _wait_until_free(host)
    given_back = host.trim()
    return Proof(repaired, slots, given_back, memory_of(host))


def _check(host: shmhub.HubHost) -> int:
    """What liars have left behind is mended, and then nothing is wrong."""
    first = host.fsck(repair=True)
    second = host.fsck()
    if not first.clean or second.found:
        findings = "\n".join(map(str, (*first.findings, *second.findings)))
        raise Wrong(f"{first.left} things left by the repair, {second.found} after it:\n{findings}")
    return first.repaired


def _wait_until_free(host: shmhub.HubHost) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        away = [one for one in host.statistics().size_classes if one.free != one.slots]
        if not away:
            return
        if time.monotonic() > deadline:
            raise Wrong(f"slots that are not free although nobody should hold any: {away}")
        time.sleep(0.01)


def _take_all(transport: Any, entry: shmhub.SizeClassStatistics) -> int:
    """As many as the class may ever have, all different; writes to each to its last byte."""
    taken: list[Any] = []
    try:
        while len(taken) < entry.max_slots:
            try:
                slot = transport.alloc_nowait(entry.slot_size)
            except shmhub.SlotsExhaustedError as error:
                raise Wrong(f"only {len(taken)} slots of {entry}: {error}") from error
            taken.append(slot)
            if slot.capacity != entry.slot_size:
                raise Wrong(f"only {len(taken) - 1} slots of {entry}, the next one is {slot!r}")
            slot.write(len(taken).to_bytes(8, "little"), len(slot) - 8)
        marks = [int.from_bytes(memoryview(slot)[-8:], "little") for slot in taken]
        if marks != list(range(1, len(taken) + 1)):
            raise Wrong(f"slots of {entry} that share memory: {marks}")
    finally:
        for slot in taken:
            slot.release()
    return len(taken)
