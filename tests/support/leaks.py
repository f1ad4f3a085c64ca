"""What a hub could leave behind: descriptors, mappings, threads, children, files."""

from __future__ import annotations

import gc
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import until

_SHM = Path("/dev/shm")
HUB_NAME = f"shmhub-pytest-{os.getpid()}"


@dataclass(frozen=True)
class Snapshot:
    """Everything of one process that must be the same after a test as before it."""

    descriptors: frozenset[tuple[int, str]]
    mappings: Counter[str]
    threads: int
    children: frozenset[int]
    shm_entries: frozenset[str]

    @classmethod
    def take(cls) -> Snapshot:
        gc.collect()
        return cls(
            descriptors=frozenset(open_descriptors(os.getpid()).items()),
            mappings=Counter(shared_mappings(os.getpid())),
            threads=len(os.listdir("/proc/self/task")),
            children=frozenset(children_of(os.getpid())),
            shm_entries=frozenset(hub_files()),
        )

    def what_is_left(self, later: Snapshot) -> list[str]:
        """One line for each thing that ``later`` has and this snapshot has not."""
        left = [f"descriptor {fd} -> {to}" for fd, to in later.descriptors - self.descriptors]
        left += [f"mapping of {name} x{n}" for name, n in (later.mappings - self.mappings).items()]
        left += [f"child process {pid}" for pid in later.children - self.children]
        left += [f"/dev/shm/{name}" for name in later.shm_entries - self.shm_entries]
        if later.threads > self.threads:
            left.append(f"{later.threads - self.threads} threads")
        return left


def hub_files() -> list[str]:
    """Entries of /dev/shm that are ours; others may come and go while tests run."""
    names = os.listdir(_SHM) if _SHM.is_dir() else []
    return [name for name in names if HUB_NAME in name]


def hub_in_shm(suffix: str) -> str:
    """A path in /dev/shm that no other run of the tests uses."""
    return str(_SHM / f"{HUB_NAME}-{suffix}")


def open_descriptors(pid: int) -> dict[int, str]:
    """fd -> what it refers to, without the descriptor that this very look needs."""
    found = {}
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{name}")
        except FileNotFoundError:
            continue
        if not target.startswith("/proc/"):
            found[int(name)] = target
    return found


def shared_mappings(pid: int) -> list[str]:
    """Path names of all shared mappings; a hub is one of these, named or anonymous."""
    names = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        parts = line.split(maxsplit=5)
        if parts[1].endswith("s") and len(parts) == 6:
            names.append(parts[5])
    return names


def children_of(pid: int) -> list[int]:
    """Direct children, zombies too: one nobody waited for is a leak as well."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(entry))
    return found


def resident_bytes(pid: int | None = None) -> int:
    """Memory that is really there (RSS), without what is shared with files and other processes."""
    text = Path(f"/proc/{pid or os.getpid()}/status").read_text()
    for line in text.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon in /proc/self/status")


def assert_nothing_left(before: Snapshot) -> None:
    """Fails when something is still there; gives processes a moment to finish dying first."""
    left: list[str] = []

    def clean() -> bool:
        nonlocal left
        left = before.what_is_left(Snapshot.take())
        return not left

    try:
        until(clean, "everything to be given back", patience=5.0)
    except AssertionError:
        raise AssertionError("left behind:\n  " + "\n  ".join(left)) from None
