"""What a check of a hub found: the report of `HubHost.fsck` and of `python -m shmhub fsck`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["FsckFinding", "FsckReport"]


class FsckFinding(NamedTuple):
    """One thing that no honest process writes."""

    kind: str
    """ "header", "peer", "signal", "ring", "in_service", "state", "owner", "stray", "backed",
    "out_of_range", "circle", "twice" or "not_linked"."""
    size_class: int
    """Number of the size class, -1 if it is not about one."""
    slot: int
    """The slot in its class, -1 if it is not about one."""
    peer_id: int
    """-1 if it is not about a peer."""
    found: str
    """What was found there."""
    meaning: str
    """What comes of it."""
    repaired: bool

    @property
    def place(self) -> str:
        """Where, for people: "slot 0:17" is slot 17 of class 0."""
        if self.slot >= 0:
            return f"slot {self.size_class}:{self.slot}"
        if self.size_class >= 0:
            return f"class {self.size_class}"
        return f"peer {self.peer_id}" if self.peer_id >= 0 else "hub"

    def __str__(self) -> str:
        done = "repaired" if self.repaired else "not repaired"
        return f"{self.place}: {self.found}: {self.meaning}; {done}"


class FsckReport(NamedTuple):
    """A whole check."""

    findings: tuple[FsckFinding, ...]
    """What was found; beyond 10,000 they are only counted."""
    found: int
    """How many that were; `repaired` + `left`."""
    repaired: int
    left: int
    """Still there: without `repair` all of them, else those that a living process has to do with,
    or that somebody goes on damaging."""
    slots: int
    """Slots looked at."""
    off_list: int
    """Free slots on no free list: a process died at that instant. Nothing is wrong: a scan finds
    them. They go back onto the lists when a repair finds no other process at work."""
    remembered: int
    """Free slots that a process keeps in mind, or did when it died. Nothing is wrong."""
    misplaced: int
    """On the list of slots with memory and without any, or the other way round: lists are hints."""
    unjudged: int
    """Free lists that changed too fast to be looked at."""
    reclaimed: int
    """Slots of the dead that were freed: the remains of a hub."""
    bytes_given_back: int
    """Memory of free slots that a repair gave back to the system."""
    live: bool
    """Others were, or may have been, at work meanwhile."""

    @property
    def clean(self) -> bool:
        """Is there nothing left that is wrong?"""
        return self.left == 0

    @classmethod
    def from_core(cls, raw: Mapping[str, Any]) -> FsckReport:
        """From `_core.fsck` and its like."""
        return cls(
            findings=tuple(FsckFinding(*one) for one in raw["findings"]),
            found=raw["found"],
            repaired=raw["mended"],
            left=raw["left"],
            slots=raw["slots"],
            off_list=raw["off_list"],
            remembered=raw["remembered"],
            misplaced=raw["misplaced"],
            unjudged=raw["unjudged"],
            reclaimed=raw["reclaimed"],
            bytes_given_back=raw["bytes"],
            live=raw["live"],
        )
