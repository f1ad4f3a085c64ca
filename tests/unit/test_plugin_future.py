"""A call's future is made without `Future.__init__`: it must come out the same."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, cast

from shmhub.plugin._future import CallFuture


def test_it_has_what_every_future_has() -> None:
    usual, ours = vars(Future()), vars(CallFuture(cast("Any", None), "method", (), {}))
    assert usual.keys() <= ours.keys()
    for name in usual.keys() - {"_condition"}:
        assert ours[name] == usual[name], name
    assert type(ours["_condition"]) is type(usual["_condition"])
    assert type(ours["_condition"]._lock) is type(usual["_condition"]._lock)
