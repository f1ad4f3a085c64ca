"""What every test and helper process agrees on: where things are, how patient to be, which seed.

Nothing here knows of hubs.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# How long something that must happen may take on a loaded machine before the test calls it a hang.
# Never the thing that a test measures: tests assert outcomes, not durations.
PATIENCE = 30.0

# A timeout that is meant to run out: long enough to fall asleep in, short enough to wait for.
BRIEF = 0.05


def is_full_run() -> bool:
    """Whether the long variants are asked for (``--full`` or SHMHUB_FULL=1)."""
    return os.environ.get("SHMHUB_FULL") == "1"


def choose_seed() -> int:
    """SHMHUB_SEED repeats a run; otherwise each run explores something new."""
    given = os.environ.get("SHMHUB_SEED")
    return int(given) if given else random.SystemRandom().randrange(2**32)


def make_importable() -> None:
    """Lets ``tests.support`` be imported from anywhere.

    At the end of the path, so that the installed shmhub (with its extension) is found before the
    source tree (without).
    """
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))


def python_command(program: Path, *options: str) -> list[str]:
    """argv that starts ``program`` in this interpreter without its folder on the import path."""
    return [sys.executable, *options, "-P", str(program)]
