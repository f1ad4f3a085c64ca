"""`python -m shmhub fsck`: is what lies in a hub's shared memory what the rules allow?

A live hub is only looked at from here, disturbing nobody; its host repairs it (`host.fsck`). The
remains of a named hub whose host died can be repaired, a core dump can be looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from shmhub._errors import HubExistsError, HubFormatError, ShmhubError
from shmhub._fsck import FsckReport
from shmhub._inspect import numbers_in
from shmhub._native import core

__all__ = ["Checked", "add_arguments", "check", "describe", "main"]

EXAMPLE = """\
TARGET is a path (of a named hub or a core dump), the id of a process that has hubs open, or fd:N
for a descriptor of this one.

exit status:
  0  nothing is wrong
  1  something was found, and repaired (or could be, without --repair)
  2  something could not be repaired, or there is no hub that could be read

A hub whose host lives is repaired by the host: HubHost.fsck(repair=True).

example:
  python -m shmhub fsck /dev/shm/my-hub
  python -m shmhub fsck --repair /dev/shm/my-hub     # its host is dead
  python -m shmhub fsck --json core.4711
"""

ELF = b"\x7fELF"
ANONYMOUS = "/memfd:shmhub"
ONLY_BY_PATH = (
    "only the remains of a named hub are repaired from outside, by path; the host of a live hub "
    "calls HubHost.fsck(repair=True)"
)


class Checked(NamedTuple):
    """One hub, and what was found in it: a report, or why there is none."""

    where: str
    report: FsckReport | None
    error: str = ""


def check(target: str, *, repair: bool = False) -> Iterator[Checked]:
    """Check the hubs that `target` means.

    Raises:
        ValueError: `repair`, and it is not the path of a named hub.
        OSError: it cannot be opened, or there is no such process.
    """
    descriptor, pid = numbers_in(target)
    if repair and (descriptor is not None or pid is not None):
        raise ValueError(f"fsck --repair {target}: {ONLY_BY_PATH}")
    if descriptor is not None:
        yield _checked(target, descriptor)
    elif pid is not None:
        yield from _of_process(pid)
    elif _is_dump(target):
        if repair:
            raise ValueError(f"fsck --repair {target}: a core dump is only looked at")
        yield from _of_dump(target)
    else:
        yield _checked(target, target, repair=repair)


def _checked(where: str, target: str | int, *, repair: bool = False) -> Checked:
    try:
        return Checked(where, FsckReport.from_core(core.fsck(target, repair)))
    except HubExistsError as error:
        return Checked(where, None, f"{error}; {ONLY_BY_PATH}")
    except (OSError, ShmhubError) as error:
        return Checked(where, None, str(error))


def _is_dump(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False  # said with the reason when it is opened as a hub
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and os.pread(fd, len(ELF), 0) == ELF
    finally:
        os.close(fd)


def _of_dump(path: str) -> Iterator[Checked]:
    """Every hub that the process had mapped when it was dumped."""
    which = 0
    while True:
        where = f"{path}, hub {which}"
        try:
            raw = core.fsck_dump(path, which)
        except (OSError, ShmhubError) as error:
            yield Checked(where, None, str(error))
            if which == 0:
                return
        else:
            if raw is None:
                return
            yield Checked(where, FsckReport.from_core(raw))
        which += 1


def _of_process(pid: int) -> Iterator[Checked]:
    """Every hub that a process has open, each once; other files of it are passed over."""
    folder = f"/proc/{pid}/fd"
    seen: set[tuple[int, int]] = set()
    for name in sorted(os.listdir(folder), key=int):
        path = f"{folder}/{name}"
        try:
            status = os.stat(path)
        except OSError:
            continue  # closed meanwhile
        identity = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode) or identity in seen:
            continue
        try:
            found = Checked(path, FsckReport.from_core(core.fsck(path, False)))
        except HubFormatError as error:
            if not os.readlink(path).startswith(ANONYMOUS):
                continue  # somebody's ordinary file
            found = Checked(path, None, str(error))  # a hub, and its header is broken
        except OSError:
            continue  # closed meanwhile
        seen.add(identity)
        yield found


# ---- showing it --------------------------------------------------------------------------------


def describe(checked: Checked) -> str:
    """What was found in one hub, for people."""
    report = checked.report
    if report is None:
        return f"{checked.where}: cannot be checked: {checked.error}"
    lines = [f"{checked.where}: {_verdict(report)}"]
    lines += [f"  {finding}" for finding in report.findings]
    if len(report.findings) < report.found:
        lines.append(f"  and {report.found - len(report.findings)} more")
    lines += [f"  note: {text}" for text in _notes(report)]
    return "\n".join(lines)


def _verdict(report: FsckReport) -> str:
    looked = f"{report.slots} slots looked at"
    if report.found == 0:
        return f"clean; {looked}"
    return f"{report.found} found, {report.repaired} repaired, {report.left} left; {looked}"


def _notes(report: FsckReport) -> Iterator[str]:
    if report.off_list:
        yield f"{report.off_list} free slots are on no free list: scans find them"
    if report.misplaced:
        yield f"{report.misplaced} free slots are on the list of those with (or without) memory"
    if report.unjudged:
        yield f"{report.unjudged} free lists changed too fast to be judged"
    if report.reclaimed:
        yield f"{report.reclaimed} slots of the dead were freed"
    if report.bytes_given_back:
        yield f"{report.bytes_given_back} bytes were given back to the system"


def _as_json(checked: Checked) -> dict[str, Any]:
    report = checked.report
    if report is None:
        return {"where": checked.where, "error": checked.error}
    counts = report._asdict()
    counts["findings"] = [
        {**finding._asdict(), "place": finding.place} for finding in report.findings
    ]
    return {"where": checked.where, "clean": report.clean, **counts}


def _status(checked: Checked, *, repair: bool) -> int:
    report = checked.report
    if report is None or (repair and report.left):
        return 2
    return 1 if report.found else 0


# ---- the command -------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.description = "Check everything in a hub's shared memory, slot by slot."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("target", metavar="TARGET", help="a path, a process id, or fd:N")
    parser.add_argument(
        "--repair", action="store_true", help="mend the remains of a named hub whose host died"
    )
    parser.add_argument("--json", action="store_true", help="a list of objects, for programs")


def main(options: argparse.Namespace) -> int:
    """0: clean; 1: found and repaired, or repairable; 2: not repairable."""
    try:
        hubs = list(check(options.target, repair=options.repair))
    except (OSError, ValueError) as error:
        print(f"fsck {options.target}: {error}", file=sys.stderr)
        return 2
    if not hubs:
        print(f"fsck {options.target}: that process has no hub open", file=sys.stderr)
        return 2
    if options.json:
        json.dump([_as_json(one) for one in hubs], sys.stdout, indent=2)
        print()
    else:
        for one in hubs:
            print(describe(one), file=sys.stdout if one.report else sys.stderr)
    return max(_status(one, repair=options.repair) for one in hubs)
