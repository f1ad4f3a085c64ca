"""Calls in other threads of this process, and a way to tell that they have fallen asleep."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from tests.support.environment import PATIENCE
from tests.support.waiting import until, wait_asleep


class Outcome:
    """What became of a call in another thread."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._value: Any = None
        self._error: BaseException | None = None
        self._native_id: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._native_id = threading.get_native_id()
        try:
            self._value = self._call()
        except BaseException as error:
            # Without its traceback it holds no frames, and no objects of the hub in them.
            self._error = error.with_traceback(None)
        finally:
            del self._call

    def done(self) -> bool:
        return not self._thread.is_alive()

    def wait_asleep(self) -> Outcome:
        """Returns when the thread sleeps in its call; fails when it has ended instead."""
        tid = until(lambda: self._native_id, "the thread to start")
        assert tid is not None
        wait_asleep(os.getpid(), tid, give_up=self.done)
        if self.done():
            raise AssertionError(f"should wait, but: {self._value!r} {self._error!r}")
        return self

    def join(self, patience: float = PATIENCE) -> None:
        self._thread.join(patience)
        if self._thread.is_alive():
            raise AssertionError(f"the thread did not end within {patience} s")

    def value(self) -> Any:
        """The result; raises what the call raised."""
        self.join()
        if self._error is not None:
            raise self._error
        value, self._value = self._value, None
        return value

    def error(self) -> BaseException | None:
        """The exception, or None when the call returned."""
        self.join()
        return self._error


def run_in_thread(call: Callable[[], Any]) -> Outcome:
    return Outcome(call)
