"""What travels in a soak: identities, sizes, and which error is an outcome and which a failure.

A message id says whose it is: { life:31, down:1, sequence:32 }. The payload repeats it under a
checksum (`tests.support.patterns`), so that a payload that came with another's descriptor is found.
`send_many` gives out ids of its own: there the payload alone says it.
"""

from __future__ import annotations

import random
from enum import IntEnum
from typing import NamedTuple

import shmhub
from tests.support import patterns

KIB, MIB = 1 << 10, 1 << 20
BATCH = 8  # most messages that one receive takes, most that one send_many tries

# (slot size, slots, may grow to); all together are more than the cap, each class alone is less
CLASSES = ((KIB, 32, 64), (16 * KIB, 16, 24), (256 * KIB, 8, 12), (4 * MIB, 4, 6), (16 * MIB, 2, 3))
CAP = 64 * MIB
RING_CELLS = 64

_SIZES = (
    (0, 16, 18),
    (17, 240, 22),
    (241, KIB, 26),
    (KIB + 1, 16 * KIB, 20),
    (16 * KIB + 1, 256 * KIB, 10),
    (256 * KIB + 1, 4 * MIB, 2.5),
    (4 * MIB + 1, 16 * MIB, 0.8),
)
_WEIGHTS = [weight for _, _, weight in _SIZES]


class Method(IntEnum):
    """What the receiver of a message shall do with it."""

    PLAIN = 0
    FORWARD = 1  # host: pass the slot on to another peer
    MANY = 2  # of a send_many: the id is automatic


class Identity(NamedTuple):
    """Which message it is."""

    life: int
    down: bool
    sequence: int

    @property
    def message_id(self) -> int:
        return self.life << 33 | int(self.down) << 32 | self.sequence

    @property
    def sender(self) -> int:
        """What a payload can say of it: 15 bits of the life and the direction."""
        return (self.life << 1 | int(self.down)) & 0xFFFF

    @classmethod
    def of(cls, message_id: int) -> Identity:
        return cls(message_id >> 33, bool(message_id >> 32 & 1), message_id & 0xFFFFFFFF)

    def payload(self, length: int) -> bytes:
        return patterns.make(length, self.sender, self.sequence)

    def check(self, payload: object) -> None:
        """Raises patterns.WrongPayload if that is not this message's."""
        patterns.check(payload, sender=self.sender, sequence=self.sequence)


def configuration() -> shmhub.HubConfig:
    """A hub that 16 peers exhaust all the time, in every class, with a cap that bites."""
    classes = tuple(shmhub.SizeClass(*one) for one in CLASSES)
    return shmhub.HubConfig(
        size_classes=classes, max_peers=24, ring_capacity=RING_CELLS, max_bytes=CAP
    )


def some_size(rng: random.Random) -> int:
    low, high, _ = rng.choices(_SIZES, _WEIGHTS)[0]
    return rng.randint(low, high)


def some_sizes_of_many(rng: random.Random) -> list[int]:
    """For send_many: each long enough to say in its payload which message it is."""
    return [rng.choice((16, 60, 240, 700)) for _ in range(rng.randint(1, BATCH))]
