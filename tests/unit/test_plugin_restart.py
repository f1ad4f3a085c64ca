"""When a plugin that died is started again."""

from __future__ import annotations

from typing import Any

import pytest

from shmhub.plugin._restart import RestartHistory, RestartPolicy


def delays(policy: RestartPolicy, times: list[float]) -> list[float | None]:
    history = RestartHistory(policy)
    return [history.next_delay(now) for now in times]


def test_the_first_restart_is_at_once_and_the_others_wait_longer_and_longer() -> None:
    policy = RestartPolicy(max_restarts=6, backoff=0.1, backoff_factor=2, backoff_max=0.5)
    assert delays(policy, [0.0] * 6) == [0.0, 0.1, 0.2, 0.4, 0.5, 0.5]


def test_the_limit_counts_within_the_window() -> None:
    policy = RestartPolicy(max_restarts=2, window=10)
    assert delays(policy, [0, 1, 2]) == [0.0, 0.1, None]
    # A death a long time ago is forgotten, and so is the waiting.
    assert delays(policy, [0, 1, 10.5, 11.5]) == [0.0, 0.1, 0.1, 0.1]
    assert delays(policy, [0, 1, 30]) == [0.0, 0.1, 0.0]


def test_none_is_no_limit_and_zero_is_never() -> None:
    assert delays(RestartPolicy(max_restarts=0), [0]) == [None]
    endless = delays(RestartPolicy(max_restarts=None, backoff_max=1), [0.0] * 3000)
    assert None not in endless
    assert endless[-1] == 1


def test_a_restart_that_is_refused_is_not_counted() -> None:
    history = RestartHistory(RestartPolicy(max_restarts=1, window=10))
    assert history.next_delay(0) == 0.0
    assert history.next_delay(1) is None
    assert history.total == 1
    assert history.next_delay(10.5) == 0.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_restarts", -1),
        ("max_restarts", 1.5),
        ("window", -1),
        ("backoff", float("nan")),
        ("backoff_factor", 0.5),
        ("backoff_max", "1"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name) as failure:
        RestartPolicy(**{name: value})
    assert repr(value) in str(failure.value)
