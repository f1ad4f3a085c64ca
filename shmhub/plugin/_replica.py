"""One replica of a plugin through all its lives: started, ready, dead, started again, stopped.

    starting --hello--> ready --dies--> restarting --> starting ...
       |  fails: as a death               |  too often: failed
       +--------- stop ---> stopping ---> stopped

A life is over when its process was reaped, its output read and its link told as lost. Everything
here runs in the host's loop, so nothing needs a lock; callers see the group and the status only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shmhub._errors import PeerGoneError, PluginDiedError, PluginStartError, ShmhubError
from shmhub.plugin._channel import Channel
from shmhub.plugin._death import Exit, with_tail
from shmhub.plugin._events import EventKind, PluginEvent, ReplicaStatus, State
from shmhub.plugin._output import TAIL_LINES, Output
from shmhub.plugin._process import Process
from shmhub.plugin._restart import RestartHistory, RestartPolicy

if TYPE_CHECKING:
    from shmhub._peer_info import PeerInfo
    from shmhub._rpc import Link
    from shmhub.plugin._dispatch import Group
    from shmhub.plugin._loop import Timer
    from shmhub.plugin._site import Site

__all__ = ["Plan", "Replica"]

logger = logging.getLogger("shmhub.plugin")

# A plugin that was asked to leave, then told by SIGTERM, is killed after this many seconds more.
TERM_SECONDS = 2.0
# One whose conversation is over has this long to end by itself: it runs its shutdown hooks.
LEAVE_SECONDS = 5.0
# The hub tells of a lost peer right after its process ended; nobody waits for ever for that.
TELL_SECONDS = 10.0

_UNKNOWN = Exit(None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `spawn` was asked for, the same for all replicas."""

    name: str
    text: str  # the target as the user wrote it
    command: list[str]
    env: Mapping[str, str]
    cwd: str | None
    codec: Any
    restart: RestartPolicy
    start_timeout: float | None
    # Looks at the hello: raises what is wrong with it.
    check: Callable[[Mapping[str, Any]], None]


@dataclass(slots=True)
class _Life:
    output: Output
    tail: deque[str]
    info: PeerInfo | None = None
    link: Link | None = None
    process: Process | None = None
    channel: Channel | None = None
    timers: list[Timer] = field(default_factory=list)
    returncode: int | None = None
    refusal: Exception | None = None  # why it was not taken, or could not be started
    reason: str = ""  # why it was killed
    ended: bool = False  # reaped
    read_out: bool = False
    lost: bool = False  # the link
    over: bool = False


class Replica:
    """All methods but `status` run in the loop.

    Args:
        told: called whenever the state has changed.
    """

    def __init__(self, plan: Plan, index: int, label: str, group: Group, site: Site) -> None:
        self.plan = plan
        self.index = index
        self.label = label  # in logs
        self.group = group
        self.site = site
        self.state: State = "starting"
        self.history = RestartHistory(plan.restart)
        self.error: ShmhubError | Exception | None = None  # why it failed
        self.methods: Mapping[str, Mapping[str, Any]] | None = None  # what it said it offers
        self.first = True  # nobody has seen it ready yet
        self._life: _Life | None = None
        self._restart: Timer | None = None
        self._again = False  # stopped in order to be started again

    # For any thread

    @property
    def pid(self) -> int | None:
        life = self._life
        return life.process.pid if life is not None and life.process is not None else None

    def status(self) -> ReplicaStatus:
        life = self._life
        channel = life.channel if life is not None else None
        calls = self.group.load(channel) if channel is not None else 0
        return ReplicaStatus(self.index, self.state, self.pid, calls, self.history.total)

    # Starting

    def start(self) -> None:
        """Start a process; "ready" or an end follows."""
        self._restart = None
        self._set("starting")
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        try:
            life = _Life(self.site.pump.open(self.label, tail), tail)
        except OSError as error:
            self._not_started(f"no pipes for its output: {error}", "")
            return
        self._life = life
        try:
            life.info = self.site.hub.add_peer(_peer_name(self.label))
            life.link = self.site.open_link(life.info, self.plan.codec, self)
            life.process = Process.start(
                life.info,
                self.plan.command,
                env=self.plan.env,
                cwd=self.plan.cwd,
                output=life.output,
            )
        except Exception as error:
            life.refusal = error
            life.ended = True
            self._let_go_of_place(life)
            self._read_out(life)
            return
        finally:
            life.output.close_write_ends()
        self.site.loop.watch(life.process.pidfd, lambda: self._process_ended(life))
        if self.plan.start_timeout is not None:
            self._after(life, self.plan.start_timeout, self._never_answered)
        self._tell("started")

    def hello_came(self, link: Link) -> None:
        """The plugin has said what it is."""
        life = self._life
        if (
            life is None
            or life.link is not link
            or life.process is None
            or self.state != "starting"
        ):
            return
        self._cancel_timers(life)
        hello = link.hello or {}
        try:
            self.plan.check(hello)
        except Exception as error:
            life.refusal = error
            life.process.kill()
            return
        methods = {one["name"]: one for one in hello["methods"]}
        life.channel = Channel(self.index, life.process.pid, link, int(hello["threads"]), methods)
        self.methods = methods
        self.first = False
        self._set("ready")
        self.group.add(life.channel)
        self._tell("ready")

    def _never_answered(self, life: _Life) -> None:
        assert life.process is not None
        life.reason = f"it did not say hello within {self.plan.start_timeout} s"
        life.process.kill()

    # Endings

    def link_lost(self, link: Link, gone: PeerGoneError) -> None:
        """The conversation is over: the process ended, or it left, or it broke the rules."""
        life = self._life
        if life is None or life.link is not link:
            return
        life.lost = True
        if life.channel is not None:
            self.group.drop(life.channel)
            if not gone.clean and not life.ended:
                life.reason = life.reason or str(gone)
        if not life.ended:
            # Good order or not, the process is expected to end by itself.
            self._after(life, LEAVE_SECONDS, self._terminate)
        self._maybe_over(life)

    def _process_ended(self, life: _Life) -> None:
        assert life.process is not None
        self.site.loop.unwatch(life.process.pidfd)
        life.returncode = life.process.reap()
        life.ended = True
        self._cancel_timers(life)
        if life.channel is None:
            self._let_go_of_place(life)
        else:
            self.group.drop(life.channel)
            self._after(life, TELL_SECONDS, self._never_told)
        self._read_out(life)

    def _let_go_of_place(self, life: _Life) -> None:
        """It never spoke, so nobody tells of its end."""
        life.lost = True
        if life.link is not None:
            life.link.close()
        if life.info is not None:
            with contextlib.suppress(ShmhubError):  # it had attached; the hub knows of its end
                self.site.hub.remove_peer(life.info.peer_id)

    def _never_told(self, life: _Life) -> None:
        logger.error("%s: the hub has not told of its end", self.label)
        assert life.link is not None
        life.link.close()
        life.lost = True
        self._maybe_over(life)

    def _read_out(self, life: _Life) -> None:
        def done() -> None:
            life.read_out = True
            self._maybe_over(life)

        self.site.pump.finish(life.output, lambda: self.site.post(done))

    def _maybe_over(self, life: _Life) -> None:
        if life.over or not (life.ended and life.read_out and life.lost):
            return
        life.over = True
        self._cancel_timers(life)
        if life.link is not None:
            self.site.forget_link(life.link)
        tail = "\n".join(life.tail)
        exit = Exit.of(life.returncode, tail, life.reason)
        channel, life.channel = life.channel, None
        self._life = None
        # Before the calls: one that is sent again shall see that this plugin has failed.
        self._next(life, exit, was_ready=channel is not None)
        if channel is not None:
            self.group.losses.bury(channel, exit)

    def _next(self, life: _Life, exit: Exit, *, was_ready: bool) -> None:
        pid = life.process.pid if life.process is not None else None
        if self.state == "stopping":
            self._tell("stopped", exit=exit, pid=pid)
            if self._again:
                self._again = False
                self.start()
            else:
                self._set("stopped")
            return
        if was_ready:
            text = f"plugin {self.label!r} (pid {pid}): {exit}"
            self._died(exit, pid, with_tail(text, exit.stderr_tail))
        elif life.refusal is not None and not isinstance(life.refusal, OSError):
            self.error = life.refusal
            self._died(exit, pid, str(life.refusal))
        else:
            self._not_started(
                str(life.refusal or self._why(life, exit)), exit.stderr_tail, exit, pid
            )

    def _why(self, life: _Life, exit: Exit) -> str:
        if life.reason:
            return f"{life.reason} and was killed"
        if exit.exitcode == 0:
            return (
                "its program ended by itself, with exit status 0, before it said hello: does it "
                "call plugin.run()?"
            )
        return f"{exit} before it said hello"

    def _not_started(
        self, why: str, tail: str, exit: Exit = _UNKNOWN, pid: int | None = None
    ) -> None:
        message = f"start plugin {self.label!r} ({self.plan.text}): {why}"
        text = with_tail(message, tail) if pid is not None else message
        self.error = PluginStartError(text, stderr_tail=tail)
        self._died(exit, pid, text)

    def _died(self, exit: Exit, pid: int | None, text: str) -> None:
        logger.warning("%s", text)
        self._tell("died", exit=exit, pid=pid, reason=text)
        delay = None if self.first else self.history.next_delay(time.monotonic())
        if delay is None:
            if not self.first:
                self.error = PluginDiedError(
                    f"plugin {self.label!r} has failed for good, after {self.history.total} "
                    f"restarts ({self.plan.restart.max_restarts} are allowed within "
                    f"{self.plan.restart.window} s): {text}",
                    outcome="not_started",
                    exitcode=exit.exitcode,
                    signal=exit.signal,
                    stderr_tail=exit.stderr_tail,
                    plugin=self.plan.name,
                )
            self._tell("failed", exit=exit, pid=pid, reason=str(self.error))
            self._set("failed")
            return
        self._set("restarting")
        self._tell("restarting", delay=delay)
        self._restart = self.site.loop.call_at(time.monotonic() + delay, self.start)

    # Stopping

    def stop(self, patience: float, *, restart: bool = False) -> None:
        """Ask it to leave, `patience` seconds later SIGTERM, then SIGKILL."""
        self._again = restart
        if self._leave_at_once():
            return
        life = self._life
        assert life is not None
        self._set("stopping")
        self._cancel_timers(life)
        if life.channel is None:
            self._terminate(life)
            return
        self.group.drop(life.channel)
        life.channel.link.bye()
        self._after(life, patience, self._terminate)

    def kill(self, reason: str = "", *, restart: bool = False) -> None:
        """SIGKILL; `restart`: as if it had died."""
        life = self._life
        if restart:
            if life is not None and life.process is not None and not life.ended:
                life.reason = life.reason or reason
                life.process.kill()
            return
        self._again = False
        if self._leave_at_once():
            return
        assert life is not None
        self._set("stopping")
        if life.channel is not None:
            self.group.drop(life.channel)
        if life.process is not None and not life.ended:
            life.process.kill()

    def abort(self, reason: str) -> None:
        """It hangs: SIGABRT shows where (our bootstrap has the stacks written), then SIGKILL."""
        life = self._life
        if life is None or life.process is None or life.ended or life.reason:
            return
        life.reason = reason
        if life.channel is not None:
            self.group.drop(life.channel)
        life.process.signal(signal.SIGABRT)
        self._after(life, 1.0, self._kill)

    def _leave_at_once(self) -> bool:
        """Nothing runs: it is stopped by saying so."""
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        if self._life is not None:
            return False
        if self._again:
            self._again = False
            self.start()
        elif self.state != "failed":
            self._set("stopped")
        return True

    def _terminate(self, life: _Life) -> None:
        if life.process is not None and not life.ended:
            # A stopped process takes no signal but SIGKILL and SIGCONT.
            life.process.signal(signal.SIGTERM)
            life.process.signal(signal.SIGCONT)
            self._after(life, TERM_SECONDS, self._kill)

    def _kill(self, life: _Life) -> None:
        if life.process is not None and not life.ended:
            life.process.kill()

    # Small things

    def _after(self, life: _Life, seconds: float, then: Callable[[_Life], None]) -> None:
        life.timers.append(self.site.loop.call_at(time.monotonic() + seconds, then, life))

    def _cancel_timers(self, life: _Life) -> None:
        for timer in life.timers:
            timer.cancel()
        life.timers.clear()

    def _set(self, state: State) -> None:
        self.state = state
        self.site.state_changed(self)

    def _tell(
        self,
        kind: EventKind,
        *,
        exit: Exit | None = None,
        pid: int | None = None,
        reason: str = "",
        delay: float = 0.0,
    ) -> None:
        self.site.tell(
            PluginEvent(
                kind=kind,
                plugin=self.plan.name,
                replica=self.index,
                pid=pid if pid is not None else self.pid,
                exitcode=exit.exitcode if exit else None,
                signal=exit.signal if exit else None,
                restarts=self.history.total,
                delay=delay,
                reason=reason,
                stderr_tail=exit.stderr_tail if exit and kind != "stopped" else "",
            )
        )


def _peer_name(label: str) -> str:
    """At most what the hub takes."""
    return os.fsencode(label)[:31].decode("utf-8", "ignore")
