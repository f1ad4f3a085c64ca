"""A call's future is made without `Future.__init__`: it must come out the same."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any, cast

import pytest

from shmhub.plugin._future import CallFuture


def test_it_has_what_every_future_has() -> None:
    usual: Future[Any] = Future()
    ours = CallFuture(cast("Any", None), "method", (), {})
    for name in vars(usual).keys() - {"_condition"}:
        assert getattr(ours, name) == getattr(usual, name), name
    assert type(ours._condition) is type(usual._condition)
    assert type(ours._condition._lock) is type(usual._condition._lock)
    assert ours._condition is ours._condition


def test_who_waits_before_and_who_asks_after_get_the_result() -> None:
    future = CallFuture(cast("Any", None), "method", (), {})
    got: list[Any] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        got.append(future.result(timeout=30))

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait(30)
    assert future.settle("value")
    thread.join(30)
    assert got == ["value"]
    assert future.result() == "value"
    assert future.exception() is None
    assert not future.settle("another")


def test_an_error_is_raised_with_and_without_a_wait() -> None:
    future = CallFuture(cast("Any", None), "method", (), {})
    assert future.settle(error=ValueError("no"))
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            future.result(timeout=0)
