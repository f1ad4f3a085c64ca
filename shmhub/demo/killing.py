"""Which plugin dies when. Decides, and leaves the killing to the runner.

The first victim is the plugin with most to do, in the middle of its largest piece of work, with
more waiting in its ring. Further ones are drawn by lot.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from shmhub.demo.jobs import LAST, Kind
from shmhub.demo.tally import Task

__all__ = ["KillPlan"]

_FEW: int = 3


class KillPlan:
    """`wanted` kills in the course of `tasks`; the same ones for the same seed and timing."""

    def __init__(self, tasks: Collection[Task], wanted: int, seed: int | None = None) -> None:
        self.wanted = wanted if tasks else 0
        self.done = 0
        self._started = 0
        self._victim = self._heaviest(tasks)
        rng = random.Random(seed)
        # The others die at the start of some job; no job starts less than once.
        moments = [rng.randint(1, max(1, len(tasks))) for _ in range(self.wanted - 1)]
        self._moments = sorted(moments)

    @staticmethod
    def _heaviest(tasks: Collection[Task]) -> Kind | None:
        load = {kind: sum(t.cost + 1 for t in tasks if t.source.kind == kind) for kind in Kind}
        return max(load, key=lambda kind: load[kind]) if tasks else None

    def now(self, task: Task, unfinished: Collection[Task]) -> bool:
        """A plugin has just begun with `task`: is it to die now?

        `unfinished` are all tasks of that plugin without a result, this one included.
        """
        self._started += 1
        if self.done >= self.wanted:
            return False
        if self._first_is_due(task, unfinished):
            self._victim = None
            return True
        if self._moments and self._started >= self._moments[0]:
            del self._moments[0]
            return True
        return False

    def _first_is_due(self, task: Task, unfinished: Collection[Task]) -> bool:
        if task.source.kind != self._victim:
            return False
        if task.cost < max(other.cost for other in unfinished):
            return False
        # Of an image rather the second step, when the pixels are in the plugin's hands. But the
        # largest may prove broken, and so may the next: take what there is before all is done.
        return task.method == LAST[task.source.kind] or len(unfinished) <= _FEW
