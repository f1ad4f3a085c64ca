"""`python -m tests.soak`: what `make soak` runs. See README.md here."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import logging
import sys
import time

from tests.soak.driver import Soak
from tests.support.environment import choose_seed


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="16 peers, every size, with kills, stops, restarts, exhaustion, trims, lies.",
        epilog="example: python -m tests.soak --seconds 3600 --seed 1",
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument("--seed", type=int, help="repeats the decisions of another run")
    parser.add_argument("--kills", type=float, default=1.5, help="kills a second (default 1.5)")
    options = parser.parse_args()
    if options.seconds <= 0 or options.kills <= 0:
        parser.error("--seconds and --kills must be above 0")
    return options


def _give_back_what_is_freed() -> None:
    """glibc's arenas, one for each of the first threads, keep the top of what was freed in them, up
    to twice the largest payload that they have seen: 32 MiB each here, which no leak could be told
    from."""
    threshold, bytes_from = -3, 128 << 10  # M_MMAP_THRESHOLD: from there on straight to the kernel
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(threshold, bytes_from)


def main() -> int:
    """0: nothing was wrong. 1: something was, and everything about it has been printed."""
    faulthandler.enable()
    _give_back_what_is_freed()
    # Deaths and violations are what this is about; each would be a line.
    logging.getLogger("shmhub").setLevel(logging.CRITICAL)
    options = _parse()
    seed = choose_seed() if options.seed is None else options.seed
    print(f"soak: {options.seconds:g} s, seed {seed} (repeat with --seed {seed})", flush=True)
    soak = Soak(options.seconds, seed, options.kills)
    begin = time.monotonic()
    failure: BaseException | None = None
    try:
        soak.run()
    except (Exception, KeyboardInterrupt) as error:
        failure = error
    print()
    soak.totals.show(time.monotonic() - begin, failure is not None)
    if failure is not None:
        print(f"FAILED: {type(failure).__name__}: {failure}", flush=True)
        return 1
    print("PASSED", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
