"""Calls that are made in the course of another call: which replica they must go to.

A plugin that waits for a callback runs, meanwhile, what is called in the course of that very call
(a *tree* of calls), and nothing else. So when the callback calls the plugin again, it has to be the
replica that waits, past all queues: any other way the two would wait for each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmhub._rpc import _wire as wire

if TYPE_CHECKING:
    from shmhub._rpc import CurrentCall
    from shmhub.plugin._channel import Channel

__all__ = ["Kin"]


class Kin:
    """Which replica of one plugin is part of which tree. The group's lock guards it."""

    def __init__(self, channels: list[Channel]) -> None:
        self._channels = channels  # the group's own list
        # Calls that began within a tree; its first call is known by its id.
        self._entered: dict[int, list[Channel]] = {}

    def of(self, within: CurrentCall) -> Channel | None:
        """The replica that waits in the tree of the callback that runs here, if there is one."""
        entered = self._entered.get(within.tree)
        if entered and entered[-1] in self._channels:
            return entered[-1]
        for channel in self._channels:
            link = channel.link
            if link is within.link:
                return channel
            # Another plugin of the same host called back; this one may be further up the tree.
            if link.endpoint is within.link.endpoint and any(
                call_id & wire.TREE_MASK == within.tree for call_id in list(link.calls)
            ):
                return channel
        return None

    def enter(self, tree: int, channel: Channel) -> None:
        """A call within that tree goes there."""
        self._entered.setdefault(tree, []).append(channel)

    def leave(self, tree: int) -> None:
        """The last call that entered is over."""
        entered = self._entered[tree]
        entered.pop()
        if not entered:
            del self._entered[tree]
