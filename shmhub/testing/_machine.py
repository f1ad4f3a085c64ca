"""A state machine for hypothesis to derive from: a plugin to which everything happens."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from shmhub import (
    HubConfig,
    PluginDiedError,
    PluginEvent,
    PluginHandle,
    PluginHost,
    RestartPolicy,
)
from shmhub.plugin._target import TargetArgument
from shmhub.testing._exhausting import Hoard, exhausted
from shmhub.testing._faults import Faults
from shmhub.testing._leaks import PATIENCE, Snapshot, wait_for_slots
from shmhub.testing._needs import need
from shmhub.testing._stopping import stopped

if TYPE_CHECKING:
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
else:
    st = need("hypothesis.strategies", "shmhub.testing.PluginMachine")
    _stateful = need("hypothesis.stateful", "shmhub.testing.PluginMachine")
    RuleBasedStateMachine, rule = _stateful.RuleBasedStateMachine, _stateful.rule
    invariant, precondition = _stateful.invariant, _stateful.precondition

__all__ = ["PluginMachine"]

ANSWER_SECONDS = 60.0  # what is not answered by then hangs


@dataclass(frozen=True)
class _Sent:
    """A call under way, and what is known of it."""

    what: str
    future: Future[Any]
    right: Callable[[Any], Any]
    expected: str


class PluginMachine(RuleBasedStateMachine):
    """Rules that kill, stop, continue, restart and starve a plugin; yours call it meanwhile.

    ::

        class BrightenMachine(PluginMachine):
            target = "image.py"
            config = shmhub.HubConfig(size_classes=(shmhub.SizeClass(16384, 2),))

            @rule(pixels=strategies.payloads(max_size=5000), by=st.integers(0, 255))
            def brighten(self, pixels, by):
                expected = bytes(min(255, one + by) for one in pixels)
                self.call("brighten", pixels, by=by, expected=expected)

        TestBrighten = BrightenMachine.TestCase
        TestBrighten.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)

    What it sees to, after each step and at the end:

    * every call ends, and every answer is the right one; a call may fail with PluginDiedError, but
      no process dies that no rule has killed;
    * with no call under way no slot is in use;
    * at the end no process, descriptor or mapping is left.

    Each example starts a host and the plugin anew.

    Class attributes, yours to set:
        target: as for `PluginHost.spawn`, a plugin in Python: a file, module or entry point.
        options: more for `spawn`.
        config: the hub's; None: the default.
        host_options: more for `PluginHost`.
        patience: seconds that slots and processes which are on their way back may take.
    """

    target: ClassVar[TargetArgument]
    options: ClassVar[Mapping[str, Any]] = {}
    config: ClassVar[HubConfig | None] = None
    host_options: ClassVar[Mapping[str, Any]] = {}
    patience: ClassVar[float] = PATIENCE

    def __init__(self) -> None:
        super().__init__()
        self._before = Snapshot.take()
        self._kills = 0
        self._deaths: list[PluginEvent] = []
        self._sent: list[_Sent] = []
        self._stopped: contextlib.ExitStack | None = None
        self._hoard: Hoard | None = None
        with contextlib.ExitStack() as undo:
            self.faults = undo.enter_context(Faults())
            # Killed as often as the rules please, and back at once.
            always = RestartPolicy(max_restarts=None, backoff=0.01, backoff_max=0.05)
            options = {"restart": always, "echo": False, **self.host_options}
            self._users_on_event = options.pop("on_event", None)
            options["on_event"] = self._on_event
            self.host: PluginHost = PluginHost(self.config, **options)
            undo.callback(self.host.close, timeout=0)
            self.plugin: PluginHandle = self.faults.spawn(self.host, self.target, **self.options)
            self._undo = undo.pop_all()

    # For your rules

    def call(self, method: str, /, *args: Any, expected: Any, **kwargs: Any) -> None:
        """Call a method of the plugin; what it answers is compared with `expected`.

        While the plugin is stopped nobody waits: the answer is looked at later.

        Args:
            expected: the right answer; or a function that says whether an answer is right.
        """
        right: Callable[[Any], Any] = (
            expected if callable(expected) else lambda answer: _same(answer, expected)
        )
        future = self.plugin.submit(method, *args, **kwargs)
        self._sent.append(_Sent(f"{method}()", future, right, _short(expected)))
        if self._stopped is None:
            self.settle()

    def settle(self) -> None:
        """Wait for all answers, and look at them. Lets a stopped plugin go on."""
        self._continue()
        while self._sent:
            self._check(self._sent.pop(0))

    # Rules that come with it

    @rule(which=st.integers(0, 63))
    def kill(self, which: int) -> None:
        """SIGKILL to one of the plugin's processes, now."""
        pids = [one.pid for one in self.plugin.replicas if one.pid is not None]
        if pids:
            self._kills += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[which % len(pids)], signal.SIGKILL)

    @rule(message=st.integers(1, 4), on=st.sampled_from(("received", "sending", "sent")))
    def kill_at(self, message: int, on: Any) -> None:
        """SIGKILL at one of the next messages."""
        self._kills += 1
        self.faults.kill_at(message, on=on)

    @precondition(lambda self: self._stopped is None)
    @rule()
    def stop(self) -> None:
        """SIGSTOP to all of the plugin's processes."""
        with contextlib.ExitStack() as undo:
            for pid in [one.pid for one in self.plugin.replicas if one.pid is not None]:
                with contextlib.suppress(ProcessLookupError):  # killed a moment ago
                    undo.enter_context(stopped(pid))
            self._stopped = undo.pop_all()

    @precondition(lambda self: self._stopped is not None)
    @rule()
    def go_on(self) -> None:
        """SIGCONT."""
        self._continue()

    @precondition(lambda self: self._stopped is None)
    @rule()
    def restart(self) -> None:
        """End all processes in good order, and start new ones."""
        self.faults.disarm()
        self.plugin.wait_ready(ANSWER_SECONDS)
        self.plugin.restart(ANSWER_SECONDS)

    @precondition(lambda self: self._hoard is None)
    @rule()
    def exhaust(self) -> None:
        """Take all slots that are free."""
        context = exhausted(self.host)
        self._hoard = context.__enter__()

    @precondition(lambda self: self._hoard is not None)
    @rule()
    def relieve(self) -> None:
        """Give them back."""
        self._relieve()

    # What always holds

    @invariant()
    def every_answer_is_right(self) -> None:
        """Those that have come."""
        come = [one for one in self._sent if one.future.done()]
        self._sent = [one for one in self._sent if not one.future.done()]
        for one in come:
            self._check(one)

    @invariant()
    def no_slot_is_lost(self) -> None:
        """Looked at when nobody has any reason to hold one."""
        if not self._sent and self._hoard is None and self._stopped is None:
            wait_for_slots(self.host, patience=self.patience)

    def teardown(self) -> None:
        """The end of an example: all answers, all slots, then nothing at all must be left."""
        try:
            self._relieve()
            self.settle()
            self.faults.disarm()
            wait_for_slots(self.host, patience=self.patience)
            self.host.close()
        finally:
            self._undo.close()
        self._before.check(self.patience)
        if len(self._deaths) > self._kills:
            raise AssertionError(
                f"{len(self._deaths)} processes of the plugin have died, and {self._kills} were "
                f"killed; the last: {self._deaths[-1].reason}"
            )

    # Details

    def _check(self, sent: _Sent) -> None:
        try:
            answer = sent.future.result(ANSWER_SECONDS)
        except PluginDiedError as died:
            if self._kills == 0:
                raise AssertionError(f"{sent.what}: the plugin died by itself") from died
            return
        except TimeoutError as error:
            raise AssertionError(
                f"{sent.what}: not answered within {ANSWER_SECONDS:g} s"
            ) from error
        if not sent.right(answer):
            raise AssertionError(
                f"{sent.what} has answered {_short(answer)} instead of {sent.expected}"
            )

    def _on_event(self, event: PluginEvent) -> None:
        if event.kind == "died":
            self._deaths.append(event)
        if self._users_on_event is not None:
            self._users_on_event(event)

    def _continue(self) -> None:
        if self._stopped is not None:
            self._stopped.close()
            self._stopped = None

    def _relieve(self) -> None:
        if self._hoard is not None:
            self._hoard.give_back()
            self._hoard = None


def _same(answer: Any, expected: Any) -> bool:
    if hasattr(expected, "tobytes") and hasattr(expected, "dtype"):  # an ndarray
        return bool(
            type(answer) is type(expected)
            and (answer.dtype, answer.shape) == (expected.dtype, expected.shape)
            and answer.tobytes() == expected.tobytes()
        )
    return type(answer) is type(expected) and bool(answer == expected)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
