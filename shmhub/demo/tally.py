"""What the demo counts: plain data, filled by the runner and read by the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from shmhub.demo.files import Source
from shmhub.demo.jobs import FIRST, HUB_CLASSES, Kind, Method, Outcome

__all__ = ["ClassTally", "KindTally", "Tally", "Task"]


@dataclass(eq=False, slots=True)
class Task:
    """A file on its way. `digests` and `result` are filled in as its steps come back."""

    source: Source
    method: Method
    started: bool = False
    losses: int = 0
    """How often a plugin died with it."""
    read: int = 0
    read_digest: str = ""
    digests: list[str] = field(default_factory=list)
    outcome: Outcome | None = None

    @classmethod
    def of(cls, source: Source) -> Task:
        return cls(source, FIRST[source.kind])

    def begin_again(self) -> None:
        self.method = FIRST[self.source.kind]
        self.started = False
        self.digests.clear()

    @property
    def cost(self) -> int:
        """Most bytes that it has in the hub at any time, about: input and output of a step."""
        return self.source.size + max(self.source.size, 2 * self.source.raster)


@dataclass(slots=True)
class KindTally:
    """Of one plugin. `bytes_out` takes the file itself where the result is no smaller."""

    files: int = 0
    refused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    kept: int = 0
    """Files that were as small as they can be."""
    seconds: float = 0.0
    """While the plugin had work."""
    seconds_here: float = 0.0
    """The same work in this process."""


@dataclass(slots=True)
class ClassTally:
    """Messages whose payload travelled in slots of one size, seen from the host."""

    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class Tally:
    """Of a whole run."""

    kinds: dict[Kind, KindTally] = field(default_factory=dict)
    inline: ClassTally = field(default_factory=ClassTally)
    classes: list[ClassTally] = field(default_factory=lambda: [ClassTally() for _ in HUB_CLASSES])
    high_water: list[int] = field(default_factory=list)
    largest_payload: int = 0
    memory_peak: int = 0
    reclaimed: int = 0
    kills: int = 0
    kills_from_outside: int = 0
    never_received: int = 0
    """Sent again because the plugin that died had not taken them from its ring."""
    may_have_run: int = 0
    """Sent again because they were lost after that; safe, because all this work is idempotent."""
    equal: int = 0
    """Results that were the same as in this process."""
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    seconds_here: float = 0.0

    def of_class(self, size_class: int | None) -> ClassTally:
        return self.inline if size_class is None else self.classes[size_class]

    @property
    def retried(self) -> int:
        return self.never_received + self.may_have_run
