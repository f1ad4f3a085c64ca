"""How large a hub is, how far it may grow and how it waits. Plain, checked, immutable data.

Knows nothing of shared memory: the core lays out what is described here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["DEFAULT_SIZE_CLASSES", "HubConfig", "SizeClass"]

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

SLOT_SIZE_MIN = 64
SLOT_SIZE_MAX = GIB
SLOT_ALIGNMENT = 64
PAGE = 4096
SLOTS_LIMIT = 1 << 24
CLASSES_MAX = 8
PEERS_MIN, PEERS_MAX = 2, 64
RING_MIN, RING_MAX = 8, 65536
BYTES_MIN = MIB
SPIN_MAX = 1.0
GROWTH = 4

SPIN_ADAPTIVE_NS = -1
NANOSECONDS = 1_000_000_000

CoreConfig = tuple[tuple[tuple[int, int, int], ...], int, int, int, int]
"""What `_core.Host` takes after the path: classes, peers, ring capacity, bytes, spin in ns."""


def _integer(name: str, value: object, low: int, high: int | None, unit: str = "") -> int:
    """Check that `value` is an integer of the given range; `bool` does not pass for one."""
    unit = f" {unit}" if unit else ""
    limits = f"at least {low}{unit}" if high is None else f"from {low} to {high}{unit}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer {limits}, not {value!r}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name} must be {limits}, not {value}")
    return value


@dataclass(frozen=True, slots=True)
class SizeClass:
    """All slots of one size.

    Args:
        slot_size: bytes a slot, 64 B to 1 GiB: a multiple of 64, from 4096 on of 4096.
        slots: how many are there from the start, 0 to `max_slots`.
        max_slots: how many there may be once the class has grown, below 2**24. None: four times
            `slots`. The room costs address space, never memory.

    Raises:
        TypeError, ValueError: a field is out of its range; the message says which and the range.
    """

    slot_size: int
    slots: int
    max_slots: int | None = None

    def __post_init__(self) -> None:
        _integer("slot_size", self.slot_size, SLOT_SIZE_MIN, SLOT_SIZE_MAX, "bytes")
        unit = SLOT_ALIGNMENT if self.slot_size < PAGE else PAGE
        if self.slot_size % unit:
            raise ValueError(
                f"slot_size must be a multiple of {SLOT_ALIGNMENT} below {PAGE} bytes and of "
                f"{PAGE} from there on, not {self.slot_size}"
            )
        _integer("slots", self.slots, 0, SLOTS_LIMIT - 1)
        if self.max_slots is None:
            grown = min(GROWTH * self.slots, SLOTS_LIMIT - 1)
            if not grown:
                raise ValueError("a class that starts with slots=0 must say its max_slots")
            object.__setattr__(self, "max_slots", grown)
        _integer("max_slots", self.max_slots, 0, SLOTS_LIMIT - 1)
        if self.slots > self.limit:
            raise ValueError(
                f"slots must be at most max_slots ({self.max_slots}), not {self.slots}"
            )

    @property
    def limit(self) -> int:
        """`max_slots` as the integer that it is once the class has been made."""
        assert self.max_slots is not None
        return self.max_slots


DEFAULT_SIZE_CLASSES: tuple[SizeClass, ...] = (
    SizeClass(1 * KIB, 1024),
    SizeClass(16 * KIB, 256),
    SizeClass(256 * KIB, 32),
    SizeClass(4 * MIB, 8),
    SizeClass(16 * MIB, 4),
    # Jumbo payloads: none until one is sent, then as many as max_bytes allows.
    SizeClass(64 * MIB, 0, 32),
    SizeClass(256 * MIB, 0, 8),
    SizeClass(1 * GIB, 0, 4),
)
"""109 MiB of slots, room for each class to grow to four times that, and three jumbo classes."""


def _checked_classes(value: object) -> tuple[SizeClass, ...]:
    if isinstance(value, SizeClass) or not isinstance(value, Iterable):
        raise TypeError(f"size_classes must be a sequence of SizeClass, not {value!r}")
    classes = tuple(value)
    for entry in classes:
        if not isinstance(entry, SizeClass):
            raise TypeError(f"size_classes must hold SizeClass only, not {entry!r}")
    if not 1 <= len(classes) <= CLASSES_MAX:
        raise ValueError(f"size_classes must be from 1 to {CLASSES_MAX}, not {len(classes)}")
    for smaller, larger in pairwise(classes):
        if smaller.slot_size >= larger.slot_size:
            raise ValueError(
                "size_classes must ascend in slot_size: "
                f"{smaller.slot_size} comes before {larger.slot_size}"
            )
    return classes


@dataclass(frozen=True, slots=True)
class HubConfig:
    """The shape of a hub.

    Args:
        size_classes: 1 to 8 of them, ascending in slot size.
        max_peers: ids, the host's included, 2 to 64: one host and up to 63 peers.
        ring_capacity: cells of 64 bytes a ring, a power of two from 8 to 65536.
        max_bytes: what the hub may take of memory, at least 1 MiB. None: a quarter of the RAM, or
            of the control group's limit where that is lower.
        spin: for how many seconds to look again before sleeping, 0 to 1. 0: never. None: as long
            as it has been paying lately; an idle hub uses no CPU.

    Raises:
        TypeError, ValueError: a field is out of its range; the message says which and the range.
    """

    size_classes: tuple[SizeClass, ...] = DEFAULT_SIZE_CLASSES
    max_peers: int = 32
    ring_capacity: int = 256
    max_bytes: int | None = None
    spin: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size_classes", _checked_classes(self.size_classes))
        _integer("max_peers", self.max_peers, PEERS_MIN, PEERS_MAX)
        _integer("ring_capacity", self.ring_capacity, RING_MIN, RING_MAX, "cells")
        if self.ring_capacity & (self.ring_capacity - 1):
            raise ValueError(
                f"ring_capacity must be a power of two from {RING_MIN} to {RING_MAX} cells, "
                f"not {self.ring_capacity}"
            )
        if self.max_bytes is not None:
            _integer("max_bytes", self.max_bytes, BYTES_MIN, (1 << 63) - 1, "bytes")
        if self.spin is not None:
            self._check_spin(self.spin)

    @staticmethod
    def _check_spin(spin: object) -> None:
        if isinstance(spin, bool) or not isinstance(spin, int | float):
            raise TypeError(f"spin must be None or seconds from 0 to {SPIN_MAX:g}, not {spin!r}")
        if not 0 <= spin <= SPIN_MAX:  # also False for NaN
            raise ValueError(f"spin must be None or seconds from 0 to {SPIN_MAX:g}, not {spin}")

    def to_core(self) -> CoreConfig:
        """The same as positional arguments of `_core.Host`, after the path."""
        spin_ns = SPIN_ADAPTIVE_NS if self.spin is None else round(self.spin * NANOSECONDS)
        return (
            tuple((one.slot_size, one.slots, one.limit) for one in self.size_classes),
            self.max_peers,
            self.ring_capacity,
            self.max_bytes or 0,
            spin_ns,
        )

    @classmethod
    def from_core(cls, core: CoreConfig) -> HubConfig:
        """What the core made of it: defaults filled in, growth cut to the address space."""
        classes, max_peers, ring_capacity, max_bytes, spin_ns = core
        return cls(
            size_classes=tuple(SizeClass(*one) for one in classes),
            max_peers=max_peers,
            ring_capacity=ring_capacity,
            max_bytes=max_bytes or None,
            spin=None if spin_ns < 0 else spin_ns / NANOSECONDS,
        )
