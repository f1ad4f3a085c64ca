"""A peer's life in a soak: sends, receives, holds and checks until it is told to stop, or killed.

Runs in a forked child of the nursery. It never decides that something is fine after all: a message
that is wrong, or an error that is no outcome, ends it with a traceback and a status that the driver
takes for a failure.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import shmhub
from tests.soak.board import Board, Field, Order, Record, State
from tests.soak.messages import BATCH, Identity, Method, some_size, some_sizes_of_many

_WAIT = 0.2  # a SIGSTOP lasts longer, so these run out across one
_MOST_HELD = 4
_MOST_CHURNED = 3
_ONE_IN_LEAVES = 4000


class WrongOrder(AssertionError):
    """A message came twice, too early or to somebody else."""


class Receiver:
    """Checks what arrives at one peer and holds some of it for a while."""

    def __init__(self, transport: Any, record: Record, life: int, rng: random.Random) -> None:
        self._transport = transport
        self._record = record
        self._life = life
        self._rng = rng
        self._expected = 1
        self._last_of: dict[int, int] = {}  # forwarded: life -> sequence
        self._held: list[tuple[shmhub.Frame, Identity]] = []

    def receive(self) -> None:
        how = self._rng.randrange(3)
        if how == 0:
            frames = [self._transport.recv(timeout=self._rng.choice((0.0, 0.01, _WAIT)))]
        elif how == 1:
            frames = [self._transport.recv_nowait()]
        else:
            frames = self._transport.recv_many(BATCH, timeout=0.01)
        for frame in frames:
            self._take(frame)

    def _take(self, frame: shmhub.Frame) -> None:
        identity = self._identify(frame)
        identity.check(frame.payload)
        self._record.add(Field.RECEIVED)
        self._record.add(Field.BYTES_RECEIVED, len(frame))
        if self._rng.random() < 0.1:
            self._held.append((frame, identity))
            if len(self._held) > _MOST_HELD:
                self.let_one_go()
        else:
            frame.release()

    def _identify(self, frame: shmhub.Frame) -> Identity:
        """Which message must that be? The host's own come without a gap, others' in order."""
        if frame.method == Method.MANY:
            found = Identity(self._life, True, self._expected)
        else:
            found = Identity.of(frame.message_id)
        if found.down:
            if (found.life, found.sequence) != (self._life, self._expected):
                raise WrongOrder(f"{found} instead of {self._expected} of life {self._life}")
            self._expected += 1
        else:
            before = self._last_of.get(found.life, 0)
            if found.sequence <= before:
                raise WrongOrder(f"forwarded {found} after {before}")
            self._last_of[found.life] = found.sequence
        return found

    def let_one_go(self) -> None:
        """Whatever happened meanwhile, also to its sender: a held payload has not changed."""
        if self._held:
            frame, identity = self._held.pop(self._rng.randrange(len(self._held)))
            identity.check(frame.payload)
            frame.release()
            self._record.add(Field.RECHECKED)

    def let_all_go(self) -> None:
        while self._held:
            self.let_one_go()


class Sender:
    """Sends to the host by every way there is, each message numbered on the board."""

    def __init__(self, transport: Any, record: Record, life: int, rng: random.Random) -> None:
        self._transport = transport
        self._record = record
        self._life = life
        self._rng = rng
        self._next = 1

    def send(self) -> None:
        """One message; nothing was published when it raises, so the number is used again."""
        identity = Identity(self._life, False, self._next)
        length = some_size(self._rng)
        labels: dict[str, Any] = {
            "message_id": identity.message_id,
            "method": Method.FORWARD if self._rng.random() < 0.25 else Method.PLAIN,
        }
        payload = identity.payload(length)
        self._record[Field.UP_ATTEMPTED] = self._next
        if self._rng.random() < 0.5:
            self._send_copied(payload, labels)
        else:
            self._send_moved(payload, labels)
        self._record[Field.UP_PUBLISHED] = self._next
        self._next += 1

    def _send_copied(self, payload: bytes, labels: dict[str, Any]) -> None:
        if self._rng.random() < 0.5:
            self._transport.send(payload, timeout=_WAIT, **labels)
        else:
            self._transport.send_nowait(payload, **labels)

    def _send_moved(self, payload: bytes, labels: dict[str, Any]) -> None:
        if self._rng.random() < 0.5:
            slot = self._transport.alloc(len(payload), timeout=_WAIT)
        else:
            slot = self._transport.alloc_nowait(len(payload))
        with slot:
            slot.write(payload)
            self._transport.send(slot, timeout=_WAIT, **labels)

    def send_many(self) -> None:
        sizes = some_sizes_of_many(self._rng)
        payloads = [
            Identity(self._life, False, self._next + index).payload(size)
            for index, size in enumerate(sizes)
        ]
        self._record[Field.UP_ATTEMPTED] = self._next + len(sizes) - 1
        sent = len(sizes)
        try:
            self._transport.send_many(payloads, method=Method.MANY, timeout=_WAIT)
        except shmhub.ShmhubError as error:
            sent = error.sent  # type: ignore[attr-defined]
            raise
        finally:
            self._next += sent
            self._record[Field.UP_PUBLISHED] = self._next - 1

    def churn(self) -> None:
        """Slots that never travel: taken, written to, given back."""
        with shmhub_slots(self._transport, self._rng) as slots:
            for slot in slots:
                slot.write(b"\xa5" * min(len(slot), 4096))


class shmhub_slots:  # noqa: N801 - used like a function
    """Up to three slots of any size; all are given back, whatever happens."""

    def __init__(self, transport: Any, rng: random.Random) -> None:
        self._transport = transport
        self._rng = rng
        self._taken: list[Any] = []

    def __enter__(self) -> list[Any]:
        try:
            for _ in range(self._rng.randint(1, _MOST_CHURNED)):
                self._taken.append(self._transport.alloc_nowait(some_size(self._rng)))
        except shmhub.SlotsExhaustedError:
            self.__exit__()
            raise
        return self._taken

    def __exit__(self, *_: object) -> None:
        while self._taken:
            self._taken.pop(self._rng.randrange(len(self._taken))).release()


def attach(fds: dict[str, int], peer_id: int, name: str) -> tuple[Any, Any]:
    """The peer and its transport."""
    peer = shmhub.HubPeer.open(f"/proc/self/fd/{fds['hub']}", peer_id)
    peer.register()
    doorbell = shmhub.Doorbell.from_raw_fd(fds["doorbell"])
    return peer, shmhub.HubPeerTransport(peer, doorbell, name)


def try_once(action: Callable[[], None], record: Record) -> None:
    """Outcomes are counted; everything else is a failure and goes up."""
    try:
        action()
    except shmhub.SlotsExhaustedError:
        record.add(Field.EXHAUSTED)
    except (shmhub.HubTimeoutError, shmhub.WouldBlockError):
        record.add(Field.TIMED_OUT)
    record.add(Field.BEATS)


def run(*, fds: dict[str, int], peer_id: int, record: int, life: int, seed: int) -> int:
    """A whole life; returns when it was told to stop or has decided to leave."""
    rng = random.Random(seed)
    board = Board(fds["board"])
    mine = board.record(record)
    peer, transport = attach(fds, peer_id, f"life-{life}")
    mine[Field.STATE] = State.ATTACHED
    receiver = Receiver(transport, mine, life, rng)
    sender = Sender(transport, mine, life, rng)
    actions = (
        [receiver.receive] * 10
        + [sender.send] * 8
        + [sender.send_many, sender.churn, receiver.let_one_go]
    )
    while not board.told(Order.STOP) and rng.randrange(_ONE_IN_LEAVES):
        if board.told(Order.REST):
            receiver.let_all_go()
            try_once(receiver.receive, mine)
            time.sleep(0.002)  # the board tells nobody that it has changed
        else:
            try_once(rng.choice(actions), mine)
    _leave(peer, transport, receiver, mine, rng)
    return 0


def _leave(
    peer: Any, transport: Any, receiver: Receiver, record: Record, rng: random.Random
) -> None:
    """In good order; frames that are still held stay as they are after it."""
    if rng.random() < 0.5:
        receiver.let_all_go()
    transport.close()
    record[Field.STATE] = State.LEFT
    receiver.let_all_go()
    peer.close()
