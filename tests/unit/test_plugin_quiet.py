"""One doorbell for several calls: who is woken when, and that nobody is forgotten."""

from __future__ import annotations

from typing import Any

from shmhub.plugin._quiet import MOST, Quiet


class Link:
    def __init__(self) -> None:
        self.sent = 0
        self.woken_for = 0
        self.wakes = 0

    def wake(self) -> None:
        self.wakes += 1
        self.woken_for = self.sent


def send(quiet: Quiet, link: Any) -> None:
    link.sent += 1
    quiet.sent(link)


def test_the_first_wakes_and_then_one_of_several() -> None:
    quiet, link = Quiet(), Link()
    for _ in range(1 + 3 * MOST):
        send(quiet, link)
    assert link.wakes == 1 + 3
    assert link.woken_for == link.sent


def test_at_the_end_everybody_has_been_woken_for_everything() -> None:
    quiet, links = Quiet(), [Link(), Link(), Link()]
    for number in range(3 * MOST + 2):
        send(quiet, links[number % 3])
    quiet.end()
    assert all(link.woken_for == link.sent for link in links)
    before = [link.wakes for link in links]
    quiet.end()
    assert [link.wakes for link in links] == before


def test_one_that_gets_no_more_is_woken_while_others_do() -> None:
    quiet, once, often = Quiet(), Link(), Link()
    send(quiet, once)
    send(quiet, once)
    for _ in range(MOST):
        send(quiet, often)
    assert once.woken_for == 2
