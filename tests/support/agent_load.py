"""Agent commands that keep going: loads under which processes are killed and stopped."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import shmhub
from tests.support import patterns
from tests.support.agent_store import Store, verb


@verb
def stop_load(store: Store, fds: list[int]) -> None:
    """Ends the loads that run in threads of this agent."""
    store.stopping.set()


@verb
def alloc_free(
    store: Store,
    fds: list[int],
    *,
    sizes: list[int],
    seed: int,
    rounds: int | None = None,
    most_held: int = 8,
    wait: bool = False,
) -> dict[str, int]:
    """Takes and gives back slots in random order, checks that nobody else writes to them.

    ``rounds`` None: until killed or ``stop_load``. Gives everything back at the end.
    """
    rng = random.Random(seed)
    held: list[tuple[Any, bytes]] = []
    counts = {"allocated": 0, "exhausted": 0}
    done = 0
    while (rounds is None or done < rounds) and not store.stopping.is_set():
        done += 1
        if held and (len(held) >= most_held or rng.random() < 0.5):
            _give_back(held.pop(rng.randrange(len(held))))
            continue
        _take(store, rng, sizes, held, counts, wait=wait)
    while held:
        _give_back(held.pop())
    return counts


def _take(
    store: Store,
    rng: random.Random,
    sizes: list[int],
    held: list[tuple[Any, bytes]],
    counts: dict[str, int],
    *,
    wait: bool,
) -> None:
    nbytes = rng.choice(sizes)
    try:
        # Whoever waits while holding what others wait for could deadlock with them.
        slot = (
            store.transport().alloc(nbytes)
            if wait and not held
            else store.transport().alloc_nowait(nbytes)
        )
    except (shmhub.SlotsExhaustedError, shmhub.WouldBlockError):
        counts["exhausted"] += 1
        return
    mark = rng.randbytes(16)
    slot.write(mark)
    slot.write(mark, nbytes - 16)
    held.append((slot, mark))
    counts["allocated"] += 1


def _give_back(entry: tuple[Any, bytes]) -> None:
    slot, mark = entry
    with memoryview(slot) as view:
        if view[:16] != mark or view[-16:] != mark:
            raise patterns.WrongPayload("somebody else wrote to a slot that is owned here")
    slot.release()


@verb
def stream_out(
    store: Store,
    fds: list[int],
    *,
    sizes: list[int],
    sender: int,
    count: int | None = None,
    via: str = "main",
) -> int:
    """Sends numbered patterns as fast as they go; ``count`` None: until killed or told to stop."""
    sequence = 0
    while (count is None or sequence < count) and not store.stopping.is_set():
        payload = patterns.make(sizes[sequence % len(sizes)], sender, sequence)
        with contextlib.suppress(shmhub.HubTimeoutError):
            store.transport(via).send(payload, timeout=0.5)
            sequence += 1
    return sequence


@verb
def stream_in(
    store: Store, fds: list[int], *, count: int | None = None, via: str = "main"
) -> dict[int, int]:
    """Receives and checks: each sender's numbers must come in order, none twice, none missing."""
    next_of: dict[int, int] = {}
    received = 0
    while (count is None or received < count) and not store.stopping.is_set():
        try:
            frame = store.transport(via).recv(timeout=0.5)
        except shmhub.HubTimeoutError:
            continue
        found = patterns.check(frame.payload)
        expected = next_of.get(found.sender, 0)
        if found.sequence != expected:
            raise patterns.WrongPayload(f"expected number {expected}, got {found}")
        next_of[found.sender] = expected + 1
        received += 1
        frame.release()
    return next_of


@verb
def echo(store: Store, fds: list[int], *, count: int | None = None) -> int:
    """Sends every frame back without a copy, until the other side closes or ``count`` are done."""
    done = 0
    transport = store.transport()
    while count is None or done < count:
        try:
            frame = transport.recv()
        except shmhub.HostGoneError as gone:
            if gone.clean:
                return done
            raise
        transport.send(frame)
        done += 1
    return done
