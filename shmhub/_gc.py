"""`python -m shmhub gc`: remove named hubs whose host is dead.

A hub's host holds a lock on its file for as long as it lives, so the kernel says who is dead; the
core looks at the lock and removes under it, so that a hub made in the same moment is safe.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from shmhub._errors import HubFormatError, ShmhubError
from shmhub._native import core

__all__ = ["Outcome", "add_arguments", "collect", "main"]

DEFAULT_FOLDER = "/dev/shm"
EXAMPLE = """\
example:
  python -m shmhub gc              # look through /dev/shm
  python -m shmhub gc --dry-run /run/hubs /tmp/one.hub
"""


class Outcome(NamedTuple):
    """What became of one file."""

    path: str
    verdict: str
    """ "removed", "stale" (dry run), "live", "not a hub" or "failed"."""
    detail: str = ""


def _candidates(places: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Files to look at, and whether each was named by the user rather than found in a folder."""
    for place in places:
        if not os.path.isdir(place):
            yield place, True
            continue
        for entry in sorted(os.scandir(place), key=lambda one: one.name):
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # gone meanwhile
                continue
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_size:
                yield entry.path, False


def collect(places: Iterable[str], *, dry_run: bool = False) -> Iterator[Outcome]:
    """Remove the stale hubs among the files in `places`, which are files and folders.

    In folders only this user's files are looked at, and what is no hub is passed over.
    """
    for path, named in _candidates(places):
        try:
            if dry_run:
                verdict = "live" if core.inspect(path)["live"] else "stale"
            else:
                verdict = "removed" if core.unlink_if_stale(path) else "live"
            yield Outcome(path, verdict)
        except HubFormatError as error:
            if named:
                yield Outcome(path, "not a hub", str(error))
        except (OSError, ShmhubError) as error:
            # Gone between looking and removing: somebody else's gc, or its own host.
            if named or not isinstance(error, FileNotFoundError):
                yield Outcome(path, "failed", str(error))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.description = "Remove named hubs whose host is dead, and say which."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "places",
        nargs="*",
        metavar="PATH",
        help=f"files and folders; by default {DEFAULT_FOLDER}",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say which")
    parser.add_argument("--json", action="store_true", help="for programs")


def main(options: argparse.Namespace) -> int:
    """0: done; 1: something could not be looked at or removed."""
    places = options.places or [DEFAULT_FOLDER]
    outcomes = []
    for outcome in collect(places, dry_run=options.dry_run):
        outcomes.append(outcome)
        if not options.json:
            text = f"{outcome.verdict}: {outcome.path}"
            print(f"{text} ({outcome.detail})" if outcome.detail else text)
    failed = [one for one in outcomes if one.verdict in ("failed", "not a hub")]
    if options.json:
        json.dump([one._asdict() for one in outcomes], sys.stdout, indent=2)
        print()
    elif not outcomes:
        print("no named hub in", ", ".join(str(Path(one)) for one in places))
    return 1 if failed else 0
