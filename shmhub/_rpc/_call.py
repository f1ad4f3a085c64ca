"""One call in flight, as its caller sees it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from shmhub._errors import CodecError
from shmhub._rpc import _wire as wire
from shmhub._rpc._failure import CallLost, Failure, plain_failure
from shmhub._rpc._payload import decode, private
from shmhub._rpc._reading import Waiter

if TYPE_CHECKING:
    from shmhub._rpc._link import Link

__all__ = ["Call"]


class Call(Waiter):
    """A call in flight. Safe from several threads.

    Attributes:
        id: of its messages.
        method: its name.
        done: its outcome is known here.
        answered: the other side is done with it, or is gone.
        started: whether it was started over there; None: nobody knows yet.
        consumed: a generator among its arguments has been read.
        sending: a thread is sending it just now, and sees to it itself should the link be lost.
        on_done: called once, when `done`, by whichever thread reads, cancels or loses it: short,
            never user code.
        on_answered: the same, when `answered`: after a cancel or a timeout that is later.
    """

    __slots__ = (
        "_answer",
        "_error",
        "_value",
        "answered",
        "consumed",
        "link",
        "method",
        "on_answered",
        "on_done",
        "sending",
        "started",
        "view",
    )

    def __init__(
        self,
        link: Link,
        message_id: int,
        method: str,
        *,
        view: bool = False,
        on_done: Callable[[Call], None] | None = None,
        on_answered: Callable[[Call], None] | None = None,
    ) -> None:
        self.done = False
        self.lock = None
        self.tasks = None
        self.message_id: int = message_id
        self.link = link
        self.method = method
        self.view = view
        self.on_done = on_done
        self.on_answered = on_answered
        self.answered = False
        self.started: bool | None = None
        self.consumed = False
        self.sending = False
        self._answer: Any = None
        self._error: BaseException | None = None
        self._value: tuple[Any] | None = None

    @property
    def id(self) -> int:
        return self.message_id

    def __repr__(self) -> str:
        state = "answered" if self.answered else "abandoned" if self.done else "sent"
        return f"<Call {self.what} {self.message_id:#x}, {state}>"

    @property
    def what(self) -> str:
        """For people."""
        return f"{self.link.name}.{self.method}"

    @property
    def failed(self) -> bool:
        """Was it answered by an ERROR that nobody has asked for yet?"""
        return self._answer is not None and self._answer.channel == wire.ERROR

    @property
    def unpickles(self) -> bool:
        """Would `result` run the application's code? Whoever reads must not."""
        answer = self._answer
        if answer is None:
            return False
        if self.failed:
            failure = self._failure(answer)
            return self.link.unpickles and failure.started and failure.pickled is not None
        return bool(answer.flags & wire.CODED)

    # ---- the caller's side ---------------------------------------------------------------------

    def wait(self, deadline: float | None) -> bool:
        """Until it is done, or the deadline (`time.monotonic()`); does not cancel it."""
        if not self.done:
            self.link.wait_for(self, deadline)
        return self.done

    def result(self) -> Any:
        """The value of a call that is done; of a stream, how many items there were, in 16 bits.

        Raises:
            what the other side raised, as RemoteError; CallLost: the link is lost, or the call
            was not started; CodecError; HubTimeoutError: it came too late;
            concurrent.futures.CancelledError.
        """
        if self._value is None and self._error is None:
            self._take_answer()
        if self._value is not None:
            return self._value[0]
        error = self._error
        assert error is not None
        try:
            raise error
        finally:
            # The error refers to its traceback, that to this frame; through neither of them must
            # a slot be kept until the collector comes.
            del self, error

    def _take_answer(self) -> None:
        answer, self._answer = self._answer, None
        if answer is None:
            raise RuntimeError(f"{self!r}: result() before it is done")
        if answer.channel == wire.END:
            self._value = (answer.method,)
        elif answer.channel == wire.RESULT:
            try:
                self._value = (decode(answer, self.link.codec, True if self.view else None),)
            except CodecError as error:
                self._error = CodecError(f"the result of {self.what}: {error}")
        else:
            failure = self._failure(answer)
            self._error = failure.exception(self.what, unpickle=self.link.unpickles)
            if isinstance(self._error, CallLost):
                self._error.consumed = self.consumed

    def _failure(self, answer: Any) -> Failure:
        try:
            return Failure(decode(answer, self.link.plain))
        except CodecError as error:
            return Failure(plain_failure(wire.ENCODE, f"its error: {error}"))

    def cancel(self, error: BaseException | None = None) -> bool:
        """Tell the other side that nobody waits any more; a late answer is dropped.

        Args:
            error: what `result` raises from now on; None: CancelledError.

        Returns:
            False: it was done already.
        """
        if not self._settle(error or CancelledError(f"{self.what} was cancelled")):
            return False
        self.link.tell(wire.CANCEL, self.link.about(self.message_id))
        return True

    def withdraw(self) -> None:
        """Ask for it back unless it has started: it is then done with CallLost "not_started"."""
        if not self.done:
            self.link.tell(wire.CANCEL, self.link.about(self.message_id), flags=wire.UNSTARTED)

    # ---- the reader's side ---------------------------------------------------------------------

    def answer(self, frame: Any) -> None:
        """RESULT or ERROR has come. The frame is dropped if nobody wants it any more."""
        if self.answered:
            return
        self.answered = True
        if frame.crowded:
            frame = private(frame)  # nobody may ask for the result for a long time
        if self.started is None:
            self.started = True
        if frame.channel == wire.ERROR:
            self.started = self._failure(frame).started
        if not self.done:
            self._answer = frame
            self._settle(None)
        if self.on_answered is not None:
            self.on_answered(self)

    def lose(self, error: CallLost) -> None:
        """The link is lost."""
        if self.answered:
            return
        self.answered = True
        error.consumed = self.consumed
        if self.started is None:
            self.started = None if error.outcome == "may_have_run" else False
        self._settle(error)
        if self.on_answered is not None:
            self.on_answered(self)

    def _settle(self, error: BaseException | None) -> bool:
        with self.link.settling:
            if self.done:
                return False
            if error is not None:
                self._error = error
            self.done = True
        self.wake()
        if self.on_done is not None:
            self.on_done(self)
        return True
