"""One doorbell for several calls that are sent one after the other.

A replica that is quicker than its sender would fall asleep, and be woken, for each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmhub._rpc import Link

__all__ = ["Quiet"]

MOST = 8  # calls to a doorbell


class Quiet:
    """The links with calls that nobody was woken for yet. For one thread."""

    def __init__(self) -> None:
        self._unwoken: dict[Link, int] = {}

    def sent(self, link: Link) -> None:
        """A call was begun quietly. Of several the first wakes: the others then find it awake."""
        count = self._unwoken.get(link, MOST - 1) + 1
        if count == MOST:
            link.wake()
            count = 0
        self._unwoken[link] = count

    def end(self) -> None:
        """Wake those that were not."""
        for link, count in self._unwoken.items():
            if count > 0:
                link.wake()
        self._unwoken.clear()
