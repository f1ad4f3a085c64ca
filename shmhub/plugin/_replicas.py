"""All replicas of one plugin: started together, watched, waited for, stopped together.

The other half of a handle: `_dispatch.Group` has the calls, this has the lives.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shmhub._errors import HubClosedError, HubTimeoutError
from shmhub.plugin._clockwork import hung_channels
from shmhub.plugin._events import State
from shmhub.plugin._replica import Plan, Replica
from shmhub.plugin._restart import RestartHistory

if TYPE_CHECKING:
    from shmhub.plugin._dispatch import Group
    from shmhub.plugin._site import Site

__all__ = ["Replicas"]

logger = logging.getLogger("shmhub.plugin")

_OVER = ("stopped", "failed")
# A plugin whose calls did not end in time was told to leave; it has this long to do so.
_LEAVE_SECONDS = 1.0
# Even SIGKILL takes its time on a process that waits for a disk.
_KILL_SECONDS = 30.0


class Replicas:
    """Safe from several threads, but `state_changed` and `_watch` run in the loop."""

    def __init__(
        self, plan: Plan, count: int, *, site: Site, group: Group, watchdog: float | None
    ) -> None:
        self.plan = plan
        self.site = site
        self.group = group
        self.watchdog = watchdog
        self._changed = threading.Condition()
        self._stopping = False
        self.replicas = [
            Replica(plan, index, plan.name if count == 1 else f"{plan.name}/{index}", group, site)
            for index in range(count)
        ]

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def state(self) -> State:
        """The best that any replica is in."""
        states = {one.state for one in self.replicas}
        order: tuple[State, ...] = ("ready", "restarting", "starting", "stopping", "failed")
        for state in order:
            if state in states:
                return state
        return "stopped"

    @property
    def methods(self) -> Mapping[str, Mapping[str, Any]]:
        """What the plugin said it offers, by name."""
        for replica in self.replicas:
            if replica.methods is not None:
                return replica.methods
        return {}

    def _check_here(self, what: str) -> None:
        """Is this the process, and the time, for that?"""
        self.site.check_not_forked(what)
        if self._stopping:
            raise HubClosedError(f"{what}: plugin {self.name!r} was stopped")

    def start(self) -> None:
        """Start all; returns when all are ready.

        Raises:
            PluginStartError, InterfaceError, PeerLimitError: one is not; the others are ended.
            HubClosedError: it was stopped, before or meanwhile.
        """
        try:
            for replica in self.replicas:
                self.site.loop.post(self._start, replica)
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self._stopping
                        or all(one.state == "ready" for one in self.replicas)
                        or any(one.state in _OVER for one in self.replicas)
                    )
                )
            error = next((one.error for one in self.replicas if one.state == "failed"), None)
            if error is not None:
                raise error
            if self._stopping:
                raise HubClosedError(f"spawn {self.name!r}: its host was closed meanwhile")
        except BaseException:
            self.kill()
            raise
        if self.watchdog is not None:
            self.site.loop.post(self._watch)

    def _start(self, replica: Replica) -> None:
        with self._changed:  # as in `_renew`
            if not self._stopping:
                replica.start()

    def state_changed(self) -> None:
        with self._changed:
            self._changed.notify_all()
        if all(one.state in _OVER for one in self.replicas) and not self._stopping:
            errors = [one.error for one in self.replicas if one.error is not None]
            self.group.refuse(
                errors[-1] if errors else HubClosedError(f"plugin {self.name!r} was stopped")
            )

    def _watch(self) -> None:
        """Kill what hangs, look again later."""
        if self._stopping or self.watchdog is None:
            return
        for channel in hung_channels(self.group, self.watchdog):
            replica = self.replicas[channel.index]
            replica.abort(f"a call was running for more than {self.watchdog} s: its watchdog")
        self.site.loop.call_at(time.monotonic() + self.watchdog / 4, self._watch)

    def wait_ready(self, timeout: float | None) -> None:
        """Wait until every replica that has not failed is ready.

        Raises:
            HubTimeoutError: `timeout` seconds are over.
            PluginDiedError, PluginStartError: all have failed.
            HubClosedError: it was stopped.
        """

        self._check_here("wait_ready")

        def settled() -> bool:
            living = [one for one in self.replicas if one.state != "failed"]
            return self._stopping or all(one.state == "ready" for one in living)

        with self._changed:
            in_time = self._changed.wait_for(settled, timeout)
        if self._stopping:
            raise HubClosedError(f"plugin {self.name!r} was stopped")
        if not in_time:
            states = ", ".join(one.state for one in self.replicas)
            raise HubTimeoutError(
                f"wait_ready: plugin {self.name!r} is not ready after {timeout} s ({states})"
            )
        errors = [one.error for one in self.replicas if one.state == "failed"]
        if len(errors) == len(self.replicas) and errors[-1] is not None:
            raise errors[-1]

    def restart(self, timeout: float | None) -> None:
        """Start every replica anew, one after the other, each after its calls have ended.

        One that has failed for good is given another chance.

        Raises:
            HubTimeoutError: not within `timeout` seconds.
            PluginStartError, InterfaceError: a replica did not come up.
            HubClosedError: it was stopped, before or meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._check_here("restart")
        for replica in self.replicas:
            before = replica.pid
            begun = threading.Event()
            self.site.loop.post(self._renew, replica, begun)
            begun.wait()

            def renewed(one: Replica = replica, old: int | None = before) -> bool:
                return (
                    self._stopping
                    or one.state == "failed"
                    or (one.state == "ready" and one.pid != old)
                )

            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            with self._changed:
                if not self._changed.wait_for(renewed, left):
                    raise HubTimeoutError(
                        f"restart of plugin {self.name!r}: replica {replica.index} is not ready "
                        f"again after {timeout} s"
                    )
            self._check_here("restart")
            if replica.state == "failed" and replica.error is not None:
                raise replica.error

    def _renew(self, replica: Replica, begun: threading.Event) -> None:
        with self._changed:  # whoever stops it meanwhile finds all of this done, or nothing
            if not self._stopping:
                self.group.accept()
                replica.history = RestartHistory(self.plan.restart)
                # The next failure is told to who has asked for it, not tried again.
                replica.first = True
                replica.error = None
                if replica.state == "failed":
                    replica.start()
                else:
                    replica.stop(_LEAVE_SECONDS * 5, restart=True)
        begun.set()

    # The end

    def begin_stop(self) -> None:
        """Take no more calls, and start no process."""
        with self._changed:
            self._stopping = True
        self.group.refuse(
            HubClosedError(f"plugin {self.name!r} was stopped, it takes no more calls"),
            pending=False,
        )
        with self._changed:
            self._changed.notify_all()

    def leave(self, deadline: float) -> None:
        """Wait until `deadline` for the calls, then ask every replica to leave."""
        drained = self.group.wait_drained(deadline)
        patience = max(_LEAVE_SECONDS, deadline - time.monotonic())
        if not drained:
            self.group.refuse(HubClosedError(f"plugin {self.name!r} was stopped"))
            self.group.cancel_all()
            patience = _LEAVE_SECONDS
        for replica in self.replicas:
            self.site.post(replica.stop, patience)

    def kill(self) -> None:
        """End all processes now; calls get a PluginDiedError."""
        self.begin_stop()
        for replica in self.replicas:
            self.site.post(replica.kill)
        self.finish()

    def finish(self) -> None:
        """Wait until all processes have ended and all calls have their outcome."""
        with self._changed:
            ended = self._changed.wait_for(
                lambda: all(one.state in _OVER for one in self.replicas), _KILL_SECONDS
            )
            self._changed.notify_all()  # nobody else may: the site is about to forget it
        if not ended:
            logger.error(
                "plugin %s: not even SIGKILL ends %s",
                self.name,
                [one.pid for one in self.replicas if one.state not in _OVER],
            )
        self.group.refuse(HubClosedError(f"plugin {self.name!r} was stopped"))
        self.group.end()
        with contextlib.suppress(ValueError):  # another thread has waited for it, too
            self.site.all.remove(self)
