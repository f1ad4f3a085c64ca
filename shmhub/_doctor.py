"""`python -m shmhub doctor`: what on this machine would hurt a hub, and what to do about it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator

from shmhub._doctor_probes import PROBES, Check, Probe

__all__ = ["add_arguments", "examine", "main"]

EXAMPLE = """\
exit status:
  0  all is well
  1  there are warnings: hubs work, with less
  2  a hub cannot be made here

example:
  python -m shmhub doctor
  python -m shmhub doctor --json
"""

STATUS = {"OK": 0, "WARN": 1, "FAIL": 2}


def examine(probes: Iterable[Probe] = PROBES) -> Iterator[Check]:
    """Run the probes; one that fails in a way nobody thought of is itself a finding."""
    for probe in probes:
        try:
            yield from probe()
        except Exception as error:  # whatever it is, the others are still of use
            yield Check(
                probe.__name__.replace("_", " "),
                "WARN",
                f"could not be examined: {type(error).__name__}: {error}",
                "please report this",
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.description = "Look at what hubs need of this machine, and try it."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="for programs")


def main(options: argparse.Namespace) -> int:
    """0: all is well; 1: warnings; 2: a hub cannot be made here."""
    status = 0
    checks = []
    for check in examine():
        status = max(status, STATUS[check.level])
        checks.append(check)
        if not options.json:
            print(f"{check.level:<5} {check.name:<22} {check.found}", flush=True)
            if check.advice:
                print(f"{'':<5} {'':<22} -> {check.advice}")
    if options.json:
        json.dump(
            {"status": status, "checks": [check._asdict() for check in checks]},
            sys.stdout,
            indent=2,
        )
        print()
    return status
