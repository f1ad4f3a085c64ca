"""What happens to calls because time passes: deadlines, calls taken back, hung replicas.

Reads a group's calls under its lock, acts without it, and runs in the loop.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from shmhub._errors import HubClosedError, HubTimeoutError
from shmhub.plugin._future import CallFuture

if TYPE_CHECKING:
    from shmhub._rpc import Call
    from shmhub.plugin._channel import Channel
    from shmhub.plugin._dispatch import Group
    from shmhub.plugin._loop import Timer

__all__ = ["Expiry", "TakeBack", "hung_channels"]

# Calls that wait behind a slow one are asked back after this long, when another replica idles.
_TAKE_BACK_AFTER = 0.002


class Expiry:
    """One timer for all deadlines of a group: it looks through the calls when the first is due."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._next: float | None = None  # guarded by the group's lock
        self._timer: Timer | None = None

    def at(self, deadline: float) -> None:
        """A call has this deadline. From any thread."""
        with self._group.lock:
            if self._next is not None and self._next <= deadline:
                return
            self._next = deadline
        with contextlib.suppress(HubClosedError):
            self._group.loop.post(self._arm)

    def _arm(self) -> None:
        with self._group.lock:
            when = self._next
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if when is None else self._group.loop.call_at(when, self._expire)

    def _expire(self) -> None:
        group, now = self._group, time.monotonic()
        with group.lock:
            waiting = {
                one: one.deadline
                for one in group.living_calls()
                if isinstance(one, CallFuture) and one.deadline is not None and not one.over
            }
            due = [one for one, deadline in waiting.items() if deadline <= now]
            self._next = min((each for each in waiting.values() if each > now), default=None)
        self._arm()
        for future in due:
            sent = future.channel is not None and future.sent_at > 0
            may_have_run = sent or future.attempts > 0
            error = HubTimeoutError(
                f"{future.method}() of plugin {group.name!r}: no answer before its deadline; "
                + (
                    "it may have run, and may still run"
                    if may_have_run
                    else "it was not started: all replicas were busy, or none was ready"
                ),
                outcome="may_have_run" if may_have_run else "not_started",
            )
            if future.settle(error=error):
                group.given_up(future)


class TakeBack:
    """Calls that wait behind a slow one, while another replica idles, are asked back."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._armed = False

    def consider(self, idle: Channel) -> None:
        """A replica has nothing more to do. Called with the group's lock."""
        if self._armed or not any(
            len(other.calls) > other.threads for other in self._group.channels if other is not idle
        ):
            return
        self._arm()

    def _arm(self) -> None:
        self._armed = True
        when = time.monotonic() + _TAKE_BACK_AFTER
        loop = self._group.loop
        with contextlib.suppress(HubClosedError):
            loop.post(loop.call_at, when, self._look)

    def _look(self) -> None:
        group, now = self._group, time.monotonic()
        wanted: list[Call] = []
        with group.lock:
            self._armed = False
            if group.pending or all(one.in_flight >= one.threads for one in group.channels):
                return  # nobody idles any more
            too_early = False
            for channel in group.channels:
                behind = [*channel.calls][channel.threads :]
                if not behind:
                    continue
                patience = max(_TAKE_BACK_AFTER, 4 * channel.seconds_per_call)
                if now - channel.last_moment < patience:
                    too_early = True
                    continue
                for future in behind:
                    if future.call is not None and not (future.asked_back or future.pinned):
                        future.asked_back = True
                        wanted.append(future.call)
            if too_early:
                self._arm()
        for call in wanted:
            call.withdraw()


def hung_channels(group: Group, seconds: float) -> list[Channel]:
    """Replicas where a call, waited for or not, has been running for longer than that."""
    before = time.monotonic() - seconds
    found = []
    with group.lock:
        for channel in group.channels:
            since = list(channel.direct.values())
            # The first ones are running; one that came up from behind does so since the last
            # answer at the earliest.
            queued = len(channel.calls) > channel.threads or channel.threads == 1
            for future in [*channel.calls][: channel.threads]:
                if future.kind == "call" and future.sent_at:
                    began = future.sent_at
                    since.append(max(began, channel.last_moment) if queued else began)
            if since and min(since) < before:
                found.append(channel)
    return found
