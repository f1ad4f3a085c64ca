"""A plugin process: `python -m benchmarks.peer KIND --hub-path=... --peer-id=... --doorbell-fd=...`

What it shall do comes over the control connection, which is its standard input.
"""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection

from .sides import Far, die_with_parent, serve


def make_far(kind: str, argv: list[str]) -> Far:
    """Only what this peer needs is imported."""
    if kind == "sync":
        from .hub_far import HubFar

        return HubFar(argv)
    if kind == "asyncio":
        from .hub_aio import AioFar

        return AioFar(argv)
    raise SystemExit(f"no such kind of peer: {kind}")


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    control = Connection(os.dup(sys.stdin.fileno()))
    serve(make_far(argv[0], argv[1:]), control)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
