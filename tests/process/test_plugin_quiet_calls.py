"""Calls that are begun without waking the replica: which may be, and what an end does to them."""

from __future__ import annotations

import pytest

import shmhub
from tests.support.environment import PATIENCE
from tests.support.plugins import ZOO, events, host

__all__ = ["events", "host"]  # fixtures

pytestmark = pytest.mark.time_limit(120)


def test_many_that_wait_are_all_answered_in_their_order(host: shmhub.PluginHost) -> None:
    zoo = host.spawn(ZOO, replicas=2)
    futures = [zoo.submit("echo", number) for number in range(2000)]
    assert [future.result(PATIENCE) for future in futures] == list(range(2000))


def test_one_begun_quietly_is_answered_once_the_replica_is_woken(host: shmhub.PluginHost) -> None:
    link = host.spawn(ZOO)._replicas.group.channels[0].link
    call = link.begin_quietly("echo", (5,))
    assert call is not None
    link.wake()
    link.wait_for(call, None)
    assert call.result() == 5


@pytest.mark.parametrize(
    ("method", "args"), [("no_such_method", (1,)), ("echo", (object(),)), ("echo", (bytes(5000),))]
)
def test_what_is_not_one_short_message_is_not_begun(
    host: shmhub.PluginHost, method: str, args: tuple[object, ...]
) -> None:
    link = host.spawn(ZOO)._replicas.group.channels[0].link
    assert link.begin_quietly(method, args) is None
    assert link.begin_quietly("echo", (1,), deadline=0.0) is None
    assert not link.calls


def test_one_begun_while_its_link_ends_is_not_forgotten(
    host: shmhub.PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = host.spawn(ZOO)._replicas.group.channels[0].link
    next_id = link.endpoint.next_id

    def meanwhile() -> int:
        link.lose(shmhub.HubClosedError("the test says so"), frozenset())
        return next_id()

    monkeypatch.setattr(link.endpoint, "next_id", meanwhile)
    assert link.begin_quietly("echo", (1,)) is None
    assert not link.calls
    monkeypatch.undo()
    assert link.begin_quietly("echo", (1,)) is None
