"""One doorbell for several calls that are sent one after the other.

A replica that is quicker than its sender would fall asleep, and be woken, for each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmhub._rpc import Link

__all__ = ["Quiet"]

MOST = 8  # calls that nobody was woken for, of all links together


class Quiet:
    """The links with calls that nobody was woken for yet. For one thread."""

    def __init__(self) -> None:
        self._unwoken: dict[Link, int] = {}
        self._count = 0

    def sent(self, link: Link) -> None:
        """A call was begun quietly. Of several the first wakes: the others then find it awake."""
        known = self._unwoken.get(link)
        if known is None:
            link.wake()
            self._unwoken[link] = 0
            return
        self._unwoken[link] = known + 1
        self._count += 1
        if self._count == MOST:
            self._wake()

    def end(self) -> None:
        """Wake those that were not."""
        self._wake()
        self._unwoken.clear()

    def _wake(self) -> None:
        for link, count in self._unwoken.items():
            if count > 0:
                link.wake()
                self._unwoken[link] = 0
        self._count = 0
