"""The oracle for one life of one peer: what the host got of it, what it was sent, what must follow.

Thread-safe by its lock, which also keeps the order of sends to that life. Knows messages and the
board; not transports, processes or threads.
"""

from __future__ import annotations

import threading
from collections import deque
from enum import Enum

import shmhub
from tests.soak.board import Field, Record, State
from tests.soak.messages import BATCH, RING_CELLS, Identity, Method


class Kind(Enum):
    """What sort of peer a life is."""

    PYTHON = "python"
    ECHO = "echo"  # the C program: everything comes back
    LIAR = "liar"


PATIENCE = 240.0
"""Seconds without progress until something is wrong: a process may starve for minutes."""


class Wrong(AssertionError):
    """What must not happen has happened."""


class Ledger:
    """Counts and checks both directions of one life."""

    def __init__(self, life: int, kind: Kind, record: Record) -> None:
        self.life = life
        self.kind = kind
        self.record = record
        self.lock = threading.Lock()
        self.received = 0
        self.sent = 0
        self.closed = False
        self._next_down = 1
        self._last_sent: deque[int | None] = deque(maxlen=RING_CELLS)

    @property
    def lies(self) -> bool:
        return self.record[Field.STATE] == State.LYING

    def identify(self, frame: shmhub.Frame) -> Identity:
        """Which message must the next one from this life be?"""
        expected = Identity(self.life, self.kind is Kind.ECHO, self.received + 1)
        if frame.method != Method.MANY or expected.down:
            found = Identity.of(frame.message_id)
            if found != expected:
                raise Wrong(f"from {self}: {found} instead of {expected}")
        return expected

    def count_received(self) -> None:
        self.received += 1

    def next_down(self, ahead: int = 0) -> Identity:
        return Identity(self.life, True, self._next_down + ahead)

    def count_sent(self, message_id: int | None, *, own: bool) -> None:
        """The lock is held since before the send: the order here is the order in the ring.

        None: an automatic id that nobody was told. `own`: the host's, not one passed on.
        """
        self.sent += 1
        self._next_down += own
        self._last_sent.append(message_id)

    def close(self, gone: shmhub.PeerGoneError) -> None:
        """The life is over and all that it published has been received: does everything add up?"""
        with self.lock:
            self.closed = True
            if self.record[Field.STATE] == State.LYING:
                return
            self._close_up()
            self._close_down(list(gone.undelivered))

    def _close_up(self) -> None:
        published, attempted = self.record[Field.UP_PUBLISHED], self.record[Field.UP_ATTEMPTED]
        if not published <= self.received <= attempted:
            raise Wrong(
                f"{self}: {published} messages were published, {attempted} tried, "
                f"{self.received} received"
            )

    def _close_down(self, undelivered: list[int]) -> None:
        missing = len(undelivered)
        last = list(self._last_sent)[-missing:] if missing else []
        if len(last) != missing or any(
            sent not in (None, told) for sent, told in zip(last, undelivered, strict=True)
        ):
            raise Wrong(
                f"{self}: undelivered {undelivered} is not the end of what was sent: {last}"
            )
        delivered, seen = self.sent - missing, self.record[Field.RECEIVED]
        if not seen <= delivered <= seen + BATCH:
            raise Wrong(
                f"{self}: {self.sent} sent, {missing} undelivered, but the peer has seen {seen}"
            )

    def __str__(self) -> str:
        return (
            f"{self.kind.value} life {self.life} ({State(self.record[Field.STATE]).name.lower()}, "
            f"{self.received} received of it, {self.sent} sent to it)"
        )
