"""The call that runs here, for the function that it runs."""

from __future__ import annotations

from contextvars import ContextVar
from time import monotonic
from typing import Any

from shmhub._errors import HubTimeoutError

__all__ = ["CurrentCall", "current_call"]


class CurrentCall:
    """A call from the other side, while it runs here.

    Attributes:
        method: its name.
        id: unique on this hub.
        caller: who calls: the name of the host's or the plugin's side of the link.
        deadline: `time.monotonic()` seconds, or None: the caller gives up then.
    """

    __slots__ = (
        "_cancelled",
        "_told",
        "answered",
        "caller",
        "deadline",
        "id",
        "link",
        "method",
        "task",
        "tree",
    )

    def __init__(
        self, link: Any, method: str, call_id: int, deadline: float | None, tree: int
    ) -> None:
        self.link = link
        self.method = method
        self.id = call_id
        self.caller: str = link.name
        self.deadline = deadline
        self.tree = tree
        self.task: Any = None  # an asynchronous one's asyncio.Task
        self.answered = False  # or nobody waits for an answer
        self._cancelled = False
        self._told = False  # the task knows

    def __repr__(self) -> str:
        return f"<CurrentCall {self.method} from {self.caller}, {self.id:#x}>"

    @property
    def cancelled(self) -> bool:
        """The caller does not wait any more: it cancelled, gave up, or is gone."""
        return self._cancelled or self.link.closed

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None: there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - monotonic())

    def raise_if_cancelled(self) -> None:
        """Stop here if nobody waits for the result.

        Raises:
            HubTimeoutError: the deadline has passed, or the caller has cancelled.
        """
        if self.cancelled:
            raise HubTimeoutError(f"{self.method}: its caller does not wait for it any more")
        if self.deadline is not None and monotonic() >= self.deadline:
            raise HubTimeoutError(f"{self.method}: its deadline has passed")

    def cancel(self) -> None:
        """The caller has said so."""
        self._cancelled = True
        if self.task is not None and not self._told:
            self._told = True
            self.task.get_loop().call_soon_threadsafe(self.task.cancel)

    def run_in(self, task: Any) -> None:
        """It is this asyncio.Task; cancelled at once if the caller has said so already."""
        self.task = task
        if self._cancelled:
            self.cancel()


current: ContextVar[CurrentCall | None] = ContextVar("shmhub_current_call", default=None)


def current_call() -> CurrentCall:
    """The call that is being executed in this thread or task.

    Raises:
        RuntimeError: none is.
    """
    found = current.get()
    if found is None:
        raise RuntimeError(
            "current_call(): this code does not run as a method that was called over a hub"
        )
    return found
