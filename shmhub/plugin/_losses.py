"""What becomes of the calls that a replica has lost: by dying, or as they were taken back from it.

Decided once it is known how the replica ended: sent again, or a PluginDiedError that says it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmhub.plugin._death import Exit, died

if TYPE_CHECKING:
    from shmhub._errors import PluginDiedError
    from shmhub._rpc import CallLost
    from shmhub.plugin._channel import Channel
    from shmhub.plugin._dispatch import Group
    from shmhub.plugin._future import CallFuture

__all__ = ["Losses"]


class Losses:
    """Those of one group, whose lock guards `undecided`."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self.undecided: set[CallFuture] = set()  # until it is known how their replica ended

    def mourn(self, channel: Channel, future: CallFuture, lost: CallLost) -> None:
        """A call was lost."""
        group = self._group
        if lost.outcome == "may_have_run":
            future.attempts += 1
        if lost.gone is None and lost.outcome == "not_started" and not lost.consumed:
            if not future.asked_back:
                group.drop(channel)  # it is leaving, and starts nothing more
            if not future.pinned:
                group.again(future)
                return
        with group.lock:
            known = channel.mourners is None
            if channel.mourners is not None:
                channel.mourners.append((future, lost))
                self.undecided.add(future)
        if known:
            self._decide(channel, future, lost)
        else:
            group.watch(future)

    def bury(self, channel: Channel, exit: Exit) -> None:
        """How it ended is known now: decide about its calls."""
        group = self._group
        group.drop(channel)
        with group.lock:
            channel.exit = exit
            mourners, channel.mourners = channel.mourners or [], None
            self.undecided.difference_update(future for future, _ in mourners)
            group.parting.discard(channel)
            group.changed.notify_all()
        channel.patient.end()
        # Each goes to the front of the queue: the last first, so that the order is kept.
        for future, lost in reversed(mourners):
            self._decide(channel, future, lost)

    def of_stream(self, channel: Channel, method: str, lost: CallLost) -> PluginDiedError:
        """For the thread that iterates: it may wait a moment for how the replica ended."""
        with self._group.changed:
            self._group.changed.wait_for(lambda: channel.exit is not None, timeout=5)
        return self._died(channel, method, lost, 1, is_stream=True)

    def _decide(self, channel: Channel, future: CallFuture, lost: CallLost) -> None:
        """Once more, or an error."""
        if not (future.pinned or lost.consumed):
            if lost.outcome == "not_started":
                self._group.again(future)
                return
            method = channel.methods.get(future.method) or {}
            may_repeat = future.retry if future.retry is not None else method.get("idempotent")
            if may_repeat and future.attempts < self._group.max_attempts:
                self._group.again(future)
                return
        future.settle(error=self._died(channel, future.method, lost, future.attempts))

    def _died(
        self,
        channel: Channel,
        method: str,
        lost: CallLost,
        attempts: int,
        *,
        is_stream: bool = False,
    ) -> PluginDiedError:
        group = self._group
        return died(
            group.name,
            channel.index,
            channel.pid,
            channel.exit,
            method,
            lost,
            attempts,
            group.max_attempts,
            is_stream=is_stream,
        )
