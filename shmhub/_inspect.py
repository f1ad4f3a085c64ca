"""`python -m shmhub inspect`: what a hub holds, live or dead, without disturbing anybody.

The core takes the look; here hubs are found by path, process or descriptor, and shown.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from shmhub._errors import HubFormatError, ShmhubError
from shmhub._native import core
from shmhub._statistics import PeerStatistics, SizeClassStatistics, peer_name

__all__ = ["Found", "add_arguments", "describe", "find", "main", "numbers_in"]

EXAMPLE = """\
TARGET is a path, the id of a process that has hubs open, or fd:N for a descriptor of this one.

example:
  python -m shmhub inspect /dev/shm/my-hub
  python -m shmhub inspect 4711 --json
"""

CELL = 64
BITS = 64


class Found(NamedTuple):
    """One hub and what the core says of it."""

    where: str
    facts: dict[str, Any]


def find(target: str) -> Iterator[Found]:
    """The hubs that `target` means.

    Raises:
        HubFormatError: a path or descriptor is none.
        OSError: it cannot be opened, or there is no such process.
    """
    descriptor, pid = numbers_in(target)
    if descriptor is not None:
        yield Found(target, core.inspect(descriptor))
    elif pid is not None:
        yield from _of_process(pid)
    else:
        yield Found(target, core.inspect(target))


def numbers_in(target: str) -> tuple[int | None, int | None]:
    """The descriptor or else the process that `target` means, if it means one.

    Raises:
        OSError: there can be no such descriptor.
    """

    def number(text: str) -> int | None:
        return int(text) if text.isascii() and text.isdigit() else None

    descriptor = number(target[3:]) if target.startswith("fd:") else None
    if descriptor is not None and descriptor >= 1 << 31:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), target)
    return descriptor, None if os.path.exists(target) else number(target)


def _of_process(pid: int) -> Iterator[Found]:
    """Every hub that a process has open, each once; other files of it are passed over."""
    folder = f"/proc/{pid}/fd"
    seen: set[tuple[int, int]] = set()
    for name in sorted(os.listdir(folder), key=int):
        path = f"{folder}/{name}"
        try:
            status = os.stat(path)
            identity = (status.st_dev, status.st_ino)
            if not stat.S_ISREG(status.st_mode) or identity in seen:
                continue
            facts = core.inspect(path)
        except (OSError, HubFormatError):
            continue  # closed meanwhile, or somebody's ordinary file
        seen.add(identity)
        yield Found(path, facts)


# ---- showing it --------------------------------------------------------------------------------


def describe(found: Found) -> str:
    """Everything about one hub, for people."""
    facts = found.facts
    parts = [
        _header(found),
        _table("size classes", _class_rows(facts)),
        _table("peers", _peer_rows(facts)),
        _table("rings", _ring_rows(facts)),
        _waiting(facts),
    ]
    return "\n\n".join(part for part in parts if part)


def _header(found: Found) -> str:
    facts, config = found.facts, found.facts["config"]
    host = f"process {facts['host_pid']}"
    spin = config["spin_ns"]
    lines = {
        "hub": found.where,
        "host": f"{host}, alive" if facts["live"] else f"{host}, dead: these are its remains",
        "memory": f"{_size(facts['memory_bytes'])} of at most {_size(config['max_bytes'])}",
        "file": f"{_size(facts['total_size'])}, sparse",
        "peers": f"up to {config['max_peers'] - 1}, rings of {config['ring_capacity']} cells",
        "spin": "adaptive" if spin < 0 else "never" if spin == 0 else f"up to {spin / 1000:g} us",
        "so far": f"{facts['deaths']} deaths, {facts['detaches']} orderly ends, "
        f"{facts['reclaimed']} slots reclaimed, {facts['violations']} violations",
    }
    return "\n".join(f"{name:<8}{text}" for name, text in lines.items())


def _class_rows(facts: dict[str, Any]) -> Iterator[Sequence[str]]:
    yield "slot", "slots", "max", "backed", "free", "owned", "in ring", "shared", "used", "empty"
    for raw in facts["size_classes"]:
        one = SizeClassStatistics(*raw)
        yield _size(one.slot_size), *map(str, one[1:])


def _peer_rows(facts: dict[str, Any]) -> Iterator[Sequence[str]]:
    yield "id", "name", "state", "pid", "owned", "sent", "received", "rings", "waits"
    for raw in facts["peers"]:
        one = PeerStatistics(*raw)
        numbers = (one.pid, one.owned, one.sent, one.received, one.rings_rung, one.waits)
        yield str(one.peer_id), peer_name(one.peer_id, one.name), one.state, *map(str, numbers)


def _ring_rows(facts: dict[str, Any]) -> Iterator[Sequence[str]]:
    yield "peer", "direction", "cells", "of", "passed", "doorbell", "closed"
    for ring in facts["rings"]:
        used = (ring["tail"] - ring["head"]) % (1 << BITS)
        bell = "armed" if ring["sleeping"] else "-"
        if ring["want"]:
            bell += f", sender waits for {ring['want']} cells"
        yield (
            str(ring["peer_id"]),
            ring["direction"].replace("_", " "),
            str(used),
            str(ring["capacity"]),
            str(ring["head"]),
            bell,
            "closed" if ring["closed"] else "-",
        )


def _waiting(facts: dict[str, Any]) -> str:
    return (
        f"waiting for a slot: {_members(facts['waiters'])}\n"
        f"with something for the host: {_members(facts['ready'])}"
    )


def _members(word: int) -> str:
    ids = [str(bit) for bit in range(BITS) if word >> bit & 1]
    return "peers " + ", ".join(ids) if ids else "nobody"


def _size(count: int) -> str:
    """Bytes in the largest unit that leaves no more than one digit behind the point."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            whole = count % unit == 0
            return f"{count // unit} {name}" if whole else f"{count / unit:.1f} {name}"
    return f"{count} B"


def _table(title: str, rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need to be, numbers to the right; nothing when there are no rows."""
    lines = list(rows)
    if len(lines) < 2:
        return f"{title}: none"
    columns = range(len(lines[0]))
    widths = [max(len(line[column]) for line in lines) for column in columns]
    right = [all(line[column][:1].isdigit() for line in lines[1:]) for column in columns]
    shown = (
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )
    return "\n".join([f"{title}:", *(f"  {line}" for line in shown)])


# ---- the command -------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.description = "Show what a hub holds: of a live one, or what a dead one left behind."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("target", metavar="TARGET", help="a path, a process id, or fd:N")
    parser.add_argument("--json", action="store_true", help="a list of objects, for programs")


def main(options: argparse.Namespace) -> int:
    """0: shown; 1: there is no hub."""
    try:
        hubs = list(find(options.target))
    except (OSError, ShmhubError) as error:
        print(f"inspect {options.target}: {error}", file=sys.stderr)
        return 1
    if not hubs:
        print(f"inspect {options.target}: that process has no hub open", file=sys.stderr)
        return 1
    if options.json:
        json.dump([{"where": one.where, **one.facts} for one in hubs], sys.stdout, indent=2)
        print()
    else:
        print("\n\n".join(map(describe, hubs)))
    return 0
