"""Sending on a link whose other side is gone: told by each of the errors that say so."""

from __future__ import annotations

from typing import Any

import pytest

import shmhub
from shmhub._rpc import _wire as wire
from shmhub._rpc._payload import encode
from shmhub._rpc._posting import LOST, Posting


class Refusing:
    """A transport that raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.asked = 0

    def post(self, *args: Any) -> None:
        self.asked += 1
        raise self.error


ERRORS = [
    shmhub.PeerStateError("its place is gone"),
    shmhub.PeerGoneError("it died"),
    shmhub.HostGoneError("it died"),
    shmhub.HubClosedError("closed"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda one: type(one).__name__)
def test_a_short_message_to_nobody_is_dropped(error: BaseException) -> None:
    transport = Refusing(error)
    posting = Posting(transport, 3, "plugin", 0)
    posting.tell(wire.BYE, 0)
    posting.refuse_id(5, (wire.STOPPING, "", "", "", "Exception", {}, None))
    assert transport.asked == 2


@pytest.mark.parametrize("error", ERRORS, ids=lambda one: type(one).__name__)
def test_a_message_that_must_go_says_that_it_cannot(error: BaseException) -> None:
    assert isinstance(error, LOST)
    posting = Posting(Refusing(error), 3, "plugin", 0)
    with pytest.raises(type(error)):
        posting.send(wire.RESULT, 1, encode("value", posting.plain))


def test_any_other_error_is_raised() -> None:
    posting = Posting(Refusing(ValueError("no")), 3, "plugin", 0)
    with pytest.raises(ValueError, match="no"):
        posting.tell(wire.BYE, 0)
