"""The exception tree: who derives from whom, attributes, messages, pickling."""

from __future__ import annotations

import copy
import errno
import pickle

import pytest

from shmhub import _errors
from shmhub._errors import ShmhubError

# As the public interface has it: name -> direct parents besides ShmhubError.
TREE: dict[str, tuple[type[BaseException], ...]] = {
    "HubFormatError": (ShmhubError, ValueError),
    "HubExistsError": (ShmhubError, FileExistsError),
    "HubClosedError": (ShmhubError, ValueError),
    "HubForkedError": (ShmhubError, RuntimeError),
    "UnsupportedPlatformError": (ShmhubError, OSError),
    "HostGoneError": (ShmhubError, ConnectionError),
    "PeerGoneError": (ShmhubError, ConnectionError),
    "NotAttachedError": (ShmhubError,),
    "PeerLimitError": (ShmhubError,),
    "PeerStateError": (ShmhubError,),
    "HubNoSpaceError": (ShmhubError, OSError),
    "PayloadTooLargeError": (ShmhubError, ValueError),
    "SlotsExhaustedError": (ShmhubError, MemoryError),
    "WouldBlockError": (ShmhubError, BlockingIOError),
    "RingFullError": (_errors.WouldBlockError,),
    "HubTimeoutError": (ShmhubError, TimeoutError),
    "ProtocolViolation": (ShmhubError,),
    "RemoteError": (ShmhubError,),
    "PluginDiedError": (_errors.PeerGoneError,),
    "PluginStartError": (ShmhubError,),
    "PluginMissingMethod": (ShmhubError, AttributeError),
    "InterfaceError": (ShmhubError,),
    "CodecError": (ShmhubError,),
    "QueueFullError": (ShmhubError,),
}
ALL = sorted([*TREE, "ShmhubError"])


def test_the_tree_is_complete() -> None:
    assert sorted(_errors.__all__) == ALL


@pytest.mark.parametrize("name", sorted(TREE))
def test_parents(name: str) -> None:
    assert getattr(_errors, name).__bases__ == TREE[name]


@pytest.mark.parametrize("name", ALL)
def test_the_docstring_has_it(name: str) -> None:
    assert name in (_errors.__doc__ or "")


@pytest.mark.parametrize("name", ALL)
def test_pickling_keeps_message_and_attributes(name: str) -> None:
    cls = getattr(_errors, name)
    error = cls("tried this on that", peer_id=7, undelivered=(1, 2), errno=errno.EPERM, extra="x")
    error.__notes__ = ["a note"]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is cls
        assert str(again) == "tried this on that"
        assert again.args == error.args
        assert (again.peer_id, again.undelivered, again.extra) == (7, (1, 2), "x")
        assert again.errno == errno.EPERM
        assert again.__notes__ == ["a note"]


@pytest.mark.parametrize("name", ALL)
def test_copies_are_equal_in_all_that_shows(name: str) -> None:
    error = getattr(_errors, name)("message", detail=3)
    again = copy.copy(error)
    assert (type(again), str(again), again.detail) == (type(error), "message", 3)


@pytest.mark.parametrize("name", ALL)
def test_a_message_is_not_needed(name: str) -> None:
    assert str(getattr(_errors, name)()) == ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HubExistsError", errno.EEXIST),
        ("HubNoSpaceError", errno.ENOSPC),
        ("WouldBlockError", errno.EAGAIN),
        ("RingFullError", errno.EAGAIN),
        ("HubTimeoutError", errno.ETIMEDOUT),
        ("UnsupportedPlatformError", errno.ENOSYS),
    ],
)
def test_errno_by_default(name: str, expected: int) -> None:
    error = getattr(_errors, name)("message")
    assert error.errno == expected
    assert str(error) == "message", "the message, not '[Errno 17] None'"
    assert getattr(_errors, name)("message", errno=errno.EPERM).errno == errno.EPERM


def test_attributes_have_defaults() -> None:
    gone = _errors.PeerGoneError("message")
    assert (gone.clean, gone.peer_id, gone.undelivered) == (False, None, ())
    assert _errors.HostGoneError("message").clean is False
    died = _errors.PluginDiedError("message")
    assert (died.outcome, died.exitcode, died.attempts) == ("may_have_run", None, 0)


def test_remote_errors_are_caught_by_no_handler_for_ours() -> None:
    siblings = [getattr(_errors, name) for name in TREE if name != "RemoteError"]
    assert not any(issubclass(_errors.RemoteError, one) for one in siblings)
