"""Is anything left behind? What this process holds before the demo, compared with after it."""

from __future__ import annotations

import gc
import os
from collections import Counter
from pathlib import Path
from typing import Self

__all__ = ["Holdings"]


class Holdings:
    """Children, threads, descriptors and shared mappings of this process at one moment."""

    def __init__(self) -> None:
        self.children = _children()
        self.threads = set(_names("/proc/self/task"))
        self.descriptors = _descriptors()
        self.mappings = _shared_mappings()

    @classmethod
    def now(cls) -> Self:
        gc.collect()  # what only a cycle keeps alive is garbage, not left behind
        return cls()

    def new_since(self, before: Holdings) -> list[str]:
        """A line about each thing that is here now and was not then."""
        found = [f"child process {pid}" for pid in sorted(self.children - before.children)]
        found += [f"thread {tid}" for tid in sorted(self.threads - before.threads)]
        found += [
            f"descriptor of {target}"
            for target in (self.descriptors - before.descriptors).elements()
        ]
        found += [f"mapping of {name}" for name in (self.mappings - before.mappings).elements()]
        return found


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _children() -> set[str]:
    found: set[str] = set()
    for thread in _names("/proc/self/task"):
        try:
            found.update(Path(f"/proc/self/task/{thread}/children").read_text().split())
        except OSError:  # the thread has ended, or this kernel does not tell
            continue
    return found


def _descriptors() -> Counter[str]:
    """What each descriptor refers to, without the numbers that differ from object to object."""
    found: Counter[str] = Counter()
    for number in _names("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the one that listed the folder
            continue
        found[target.partition(":[")[0]] += 1
    return found


def _shared_mappings() -> Counter[str]:
    found: Counter[str] = Counter()
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[1].endswith("s"):
            found[fields[5]] += 1
    return found
