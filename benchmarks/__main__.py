"""`python -m benchmarks`: all measurements, as `benchmarks.check` makes them, without judging.

The same rows and options; the exit status is 0 also when a row is a MISS.
"""

from __future__ import annotations

import sys

from .check import main

if __name__ == "__main__":
    sys.exit(main(name="benchmarks", judge=False))
