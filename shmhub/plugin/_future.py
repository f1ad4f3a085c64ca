"""The Future of one call: what is asked for, where it is, what came of it.

A `concurrent.futures.Future` in every respect, but a running call can be cancelled, and callbacks
run in threads that are there for that, never where answers are read.
"""

from __future__ import annotations

from _thread import RLock
from concurrent.futures import Future
from concurrent.futures._base import (
    CANCELLED,
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    PENDING,
    RUNNING,
)
from contextlib import AbstractContextManager, nullcontext
from threading import Condition
from typing import TYPE_CHECKING, Any, Literal

from shmhub._rpc._current import current

if TYPE_CHECKING:
    from shmhub._rpc import Call
    from shmhub.plugin._channel import Channel
    from shmhub.plugin._dispatch import Group

__all__ = ["CallFuture", "OpenStream"]

_OVER = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})


class CallFuture(Future[Any]):
    """One call of one group of replicas.

    The group's lock guards `channel`, `call` and `asked_back`.
    """

    channel: Channel | None = None  # where it is, while it is on its way
    attempts = 0  # how often it may have run
    deadline: float | None = None
    view = False
    retry: bool | None = None
    kind: Literal["call", "stream"] = "call"
    pinned = False  # to one replica: not for another one
    asked_back = False
    sent_at = 0.0
    call: Call | None = None
    _answer: Call | None = None  # has the outcome, which is still to be unpickled
    _done_callbacks: list[Any]  # Future's own; the stubs do not tell

    def __init__(
        self, group: Group, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        # As Future's, attribute by attribute (a test compares), but for the condition: to make one
        # takes longer than all the rest of a call here, and most futures are never waited for.
        self._guard = RLock()
        self._made: Condition | None = None
        self._state = PENDING
        self._result = None
        self._exception = None
        self._waiters = []
        self._done_callbacks = []
        self.group = group
        self.method = method
        self.arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = (args, kwargs)

    @property
    def _condition(self) -> Condition:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of whoever waits; its lock is `_guard`."""
        if self._made is None:
            with self._guard:
                if self._made is None:
                    self._made = Condition(self._guard)
        return self._made

    def _tell(self) -> None:
        """With the guard: wake all who wait."""
        if self._made is not None:
            self._made.notify_all()

    @property
    def over(self) -> bool:
        return self._state in _OVER

    def result(self, timeout: float | None = None) -> Any:
        """As Future's."""
        if self._state == FINISHED and self._exception is None and self._answer is None:
            return self._result  # the state is set last
        try:
            self._wait(timeout)
            return super().result(0)
        finally:
            del self  # an exception's traceback must not keep what it is the exception of

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As Future's."""
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        with self._waiting():
            super().exception(timeout)
        if self._answer is not None:
            self._unpickle()

    def _unpickle(self) -> None:
        """The answer becomes the outcome in the thread that asks for it: that is the application's
        code, which may wait for another answer, or for a lock such as a module's being imported.
        """
        with self._guard:
            answer = self._answer
            if answer is None:
                return
            try:
                self._result = answer.result()
            except BaseException as error:
                self._exception = error
            self._answer = None

    def _waiting(self) -> AbstractContextManager[None]:
        """A callback's thread does not count while it waits: what it waits for may need one."""
        if self._state in _OVER or current.get() is None:
            return nullcontext()
        return self.group.waiting()

    def begin(self) -> bool:
        """It is about to be sent: False if it was cancelled in the meantime."""
        with self._guard:
            if self._state in _OVER:
                return False
            self._state = RUNNING
            return True

    def settle(
        self, value: Any = None, error: BaseException | None = None, *, call: Call | None = None
    ) -> bool:
        """Give it its outcome: False if it has one already. No user code runs here.

        Args:
            call: it has the outcome, pickled.
        """
        with self._guard:
            if self._state in _OVER:
                return False
            self._result, self._exception = value, error
            failed = error is not None
            if call is not None:
                self._answer, failed = call, call.failed
            self._state = FINISHED
            for waiter in self._waiters:
                waiter.add_exception(self) if failed else waiter.add_result(self)
            self._tell()
            self.arguments = None  # may hold something large
        if self._done_callbacks:
            self._invoke_callbacks()
        return True

    def forked(self, error: BaseException) -> None:
        """This is a forked child, where its answer never comes, and nobody lets go of its guard.

        Who waited for it, and who was to be called back, is in the parent.
        """
        self._guard, self._made = RLock(), None
        self._waiters, self._done_callbacks = [], []
        if not self.over:
            self._result, self._exception, self.arguments = None, error, None
            self._state = FINISHED

    def cancel(self) -> bool:
        """Cancel it, over there too if it is running: False if it is over already.

        A method that is running there finds `current_call().cancelled` set, an async one is
        cancelled as a task; what it returns is dropped.
        """
        with self._guard:
            if self._state == FINISHED:
                return False
            if self._state in _OVER:
                return True
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._tell()
            self.arguments = None
        self._invoke_callbacks()
        self.group.given_up(self)
        return True

    def _invoke_callbacks(self) -> None:
        if self._done_callbacks:
            self.group.workers.post(super()._invoke_callbacks)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


class OpenStream:
    """What takes the place of a stream's future once it opens: that would keep the stream, and one
    that is dropped must close.
    """

    kind: Literal["stream"] = "stream"
    over = True
    pinned = True
    asked_back = False
    sent_at = 0.0
    call: Call | None = None

    channel: Channel | None = None

    def cancel(self) -> None:
        """Cancel the stream, over there too."""
        if self.call is not None:
            self.call.cancel()
