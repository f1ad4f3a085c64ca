"""What one would use instead of shmhub, one file each.

A contender is a class with a name, the module it needs, and `connect()`; its `Near` and `Far` have
the verbs of `benchmarks.sides.Near`. Each uses its library as its own documentation says is
fastest for the question at hand; where that was found by trying, the file says so.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator
from typing import ClassVar

from ..sides import Link


class Contender:
    """One way of moving bytes between two processes."""

    name: str
    module: ClassVar[str | None] = None
    """The importable module of a third-party library; None: the standard library."""
    distribution: ClassVar[str | None] = None

    def connect(self) -> Link:
        """Start the other process and join it."""
        raise NotImplementedError

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        if self.module is not None and importlib.util.find_spec(self.module) is None:
            return f"{self.name}: not installed"
        return None

    def version(self) -> str | None:
        if self.distribution is None:
            return None
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


@contextlib.contextmanager
def connected(contenders: Iterable[Contender]) -> Iterator[tuple[dict[str, Link], list[str]]]:
    """All that can run here, by name, and why the others cannot. Closed in reverse order."""
    links: dict[str, Link] = {}
    reasons: list[str] = []
    with contextlib.ExitStack() as stack:
        for contender in contenders:
            reason = contender.missing()
            if reason is None:
                try:
                    links[contender.name] = stack.enter_context(contender.connect())
                except Exception as error:  # one contender's trouble must not end the others' run
                    reason = f"{contender.name}: {type(error).__name__}: {error}"
            if reason is not None:
                reasons.append(reason)
        yield links, reasons
