"""A forked child: a clear error from every operation, nothing of the parent's closed or freed."""

from __future__ import annotations

import json
import os

from tests.support import counts
from tests.support.environment import PATIENCE
from tests.support.stage import Stage


def _run(stage: Stage, function: str) -> tuple[str, str]:
    """What the child reported, and how it failed."""
    reader, writer = os.pipe()
    child = stage.later(
        stage.nursery.spawn(f"tests.support.forked:{function}", fds={"report": writer})
    )
    os.close(writer)
    with open(reader) as report:
        text = report.read()
    return text, child.read_stderr() if child.wait(PATIENCE) else ""


def test_every_operation_says_that_it_is_in_a_forked_child(stage: Stage) -> None:
    text, failure = _run(stage, "run")
    results = json.loads(text)
    assert len(results) == 15
    wrong = {name: found for name, found in results.items() if found != "HubForkedError"}
    assert not wrong
    assert not failure


def test_forks_beside_a_waiting_thread(stage: Stage) -> None:
    assert _run(stage, "run_with_a_waiting_thread") == ("HubClosedError", "")


def test_a_forked_child_may_have_a_hub_of_its_own(stage: Stage) -> None:
    assert _run(stage, "run_hub_of_its_own") == ("done", "")


def test_a_forked_child_of_a_peer_does_not_keep_the_peer_alive(stage: Stage) -> None:
    """The peer dies, its child lives on with copies of everything: the host sees the death."""
    host = stage.host()
    link = stage.peer(host)
    link.agent.call("alloc", nbytes=5000, count=2)
    child = link.agent.call("fork_and_wait")
    try:
        link.kill()
        counts.wait_gone(host, link.peer_id)
        counts.wait_all_free(host)
        os.kill(child, 0)
    finally:
        os.kill(child, 9)
