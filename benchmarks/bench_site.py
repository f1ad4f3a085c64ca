"""What does a real pipeline pay for having its steps in other processes?

`examples/site` builds pictures of 3 megapixels, decode, resize and encode as calls of their own on
raw pixels: as plain calls, through a ProcessPoolExecutor and on a hub, each with one process for
the work. Counted is the CPU time of all processes, from after their start.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .check import run_alone
from .harness import Plan
from .report import Demand, Row

PICTURES, MEGAPIXELS, ROUNDS = 50, 3.1, 5
ROWS = {"site": "a site of 50 pictures: CPU time beyond that of plain calls"}


def measure(plan: Plan) -> list[Row]:
    # Not above: without the extra `examples` only this row cannot be measured.
    from examples.site.bench import compare_modes
    from examples.site.build import Settings
    from examples.site.pictures import make_pictures

    quick = plan.rounds < ROUNDS
    pictures, megapixels, rounds = (4, 0.3, 1) if quick else (PICTURES, MEGAPIXELS, ROUNDS)
    row = Row("site", ROWS["site"], rounds)
    with tempfile.TemporaryDirectory(prefix="site-bench-") as folder:
        made = Path(folder, "pictures")
        make_pictures(made, pictures, megapixels)
        measured = compare_modes(
            made, Path(folder), rounds=rounds, replicas=1, settings=Settings("bench")
        )
    row.demands.append(
        Demand("<= 1/6 of ProcessPoolExecutor's", measured.ratio, 1 / 6, "1/15", "x the pool's")
    )
    row.missing += [f"not identical: {line}" for line in measured.differences]
    row.notes += [line for line in measured.lines() if "asked" not in line]
    return [row]


if __name__ == "__main__":
    sys.exit(run_alone(Path(__file__).stem))
