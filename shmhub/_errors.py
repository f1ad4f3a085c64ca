"""Every exception that shmhub raises; pure data, imports nothing of shmhub.

::

    ShmhubError                          all of ours
     ├ HubFormatError(ValueError)        not a hub, wrong version, truncated, geometry out of range
     ├ HubExistsError(FileExistsError)   a live hub is at that path
     ├ HubClosedError(ValueError)        used after close(), or closed while waiting
     ├ HubForkedError(RuntimeError)      used in a forked child
     ├ UnsupportedPlatformError(OSError) this platform or kernel lacks what a hub needs
     ├ HostGoneError(ConnectionError)    .clean
     ├ PeerGoneError(ConnectionError)    .clean .peer_id .undelivered .pid
     │  └ PluginDiedError                .outcome .exitcode .signal .stderr_tail .plugin .method ...
     ├ NotAttachedError                  not started as a plugin, or the host does not expect it
     ├ PeerLimitError                    all peer ids are taken
     ├ PeerStateError                    the peer is not in a state that allows this
     ├ HubNoSpaceError(OSError)          no memory behind the hub (ENOSPC)
     ├ PayloadTooLargeError(ValueError)  larger than any slot, or than max_bytes can ever hold
     ├ SlotsExhaustedError(MemoryError)  no slot is free just now
     ├ WouldBlockError(BlockingIOError)  nothing to receive just now
     │  └ RingFullError                  no room in the ring just now
     ├ HubTimeoutError(TimeoutError)     .outcome, for calls
     ├ ProtocolViolation                 a peer wrote what no peer may write; it is quarantined
     ├ RemoteError                       raised in a plugin: .type_name .remote_traceback
     ├ PluginStartError                  .stderr_tail
     ├ PluginMissingMethod(AttributeError)
     ├ InterfaceError                    a plugin does not offer the interface that was asked for
     ├ CodecError                        a value cannot be encoded or decoded
     └ QueueFullError                    too many calls are waiting already

Each takes a message and keyword attributes, which are set on the instance. The message says what
was tried, on what, what was found and what to do. All of them can be pickled, attributes included.
"""

from __future__ import annotations

import errno as _errno
from typing import Any, ClassVar, Literal

__all__ = [
    "CodecError",
    "HostGoneError",
    "HubClosedError",
    "HubExistsError",
    "HubForkedError",
    "HubFormatError",
    "HubNoSpaceError",
    "HubTimeoutError",
    "InterfaceError",
    "NotAttachedError",
    "PayloadTooLargeError",
    "PeerGoneError",
    "PeerLimitError",
    "PeerStateError",
    "PluginDiedError",
    "PluginMissingMethod",
    "PluginStartError",
    "ProtocolViolation",
    "QueueFullError",
    "RemoteError",
    "RingFullError",
    "ShmhubError",
    "SlotsExhaustedError",
    "UnsupportedPlatformError",
    "WouldBlockError",
]

Outcome = Literal["not_started", "may_have_run"]

# What OSError and its kin keep outside the instance's __dict__.
_SLOTTED_ATTRIBUTES = ("errno", "strerror", "filename", "filename2", "name", "obj")


class ShmhubError(Exception):
    """Base of all exceptions of shmhub."""

    default_errno: ClassVar[int | None] = None

    def __init__(self, message: str = "", /, **attributes: Any) -> None:
        # The built-in bases (OSError, AttributeError) give keywords a meaning of their own;
        # they see the message only.
        super().__init__(message)
        if self.default_errno is not None:
            attributes.setdefault("errno", self.default_errno)
        for name, value in attributes.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        # OSError would print "[Errno 17] None" once .errno or .filename is set.
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(self.__dict__)
        for name in _SLOTTED_ATTRIBUTES:
            value = getattr(self, name, None)
            if value is not None:
                state[name] = value
        return _rebuild, (type(self), self.args, state)


def _rebuild(cls: type[ShmhubError], args: tuple[Any, ...], state: dict[str, Any]) -> ShmhubError:
    """Make the exception again that `__reduce__` took apart."""
    return cls(*args, **state)


class HubFormatError(ShmhubError, ValueError):
    """What was found is not a hub of this version, or its geometry is out of range."""


class HubExistsError(ShmhubError, FileExistsError):
    """A live hub, or a file that is not ours, is at that path."""

    default_errno = _errno.EEXIST


class HubClosedError(ShmhubError, ValueError):
    """The object was closed before or while it was used."""


class HubForkedError(ShmhubError, RuntimeError):
    """A hub object was used in a forked child; it belongs to the parent."""


class UnsupportedPlatformError(ShmhubError, OSError):
    """This platform, kernel or build has no support for hubs."""

    default_errno = _errno.ENOSYS


class HostGoneError(ShmhubError, ConnectionError):
    """The host closed the hub (`clean`) or died."""

    clean: bool = False


class PeerGoneError(ShmhubError, ConnectionError):
    """A peer detached (`clean`) or died.

    `undelivered` holds the ids of the messages sent to it that it never received: these, and
    only these, cannot have been acted upon.
    """

    clean: bool = False
    peer_id: int | None = None
    epoch: int | None = None
    pid: int | None = None
    undelivered: tuple[int, ...] = ()


class NotAttachedError(ShmhubError):
    """This process was not started as a plugin of a hub, or the host does not expect it."""


class PeerLimitError(ShmhubError):
    """All peer ids of the hub are taken."""


class PeerStateError(ShmhubError):
    """The peer's state does not allow what was asked."""


class HubNoSpaceError(ShmhubError, OSError):
    """The file system or the memory limit behind the hub is full."""

    default_errno = _errno.ENOSPC


class PayloadTooLargeError(ShmhubError, ValueError):
    """No slot of this hub can ever hold the payload; waiting would not help."""


class SlotsExhaustedError(ShmhubError, MemoryError):
    """No slot that fits is free at the moment."""


class WouldBlockError(ShmhubError, BlockingIOError):
    """The operation would have to wait."""

    default_errno = _errno.EAGAIN


class RingFullError(WouldBlockError):
    """The ring to the other side has no room at the moment."""


class HubTimeoutError(ShmhubError, TimeoutError):
    """The time given for the operation is over; nothing was sent or received."""

    default_errno = _errno.ETIMEDOUT
    outcome: Outcome | None = None


class ProtocolViolation(ShmhubError):
    """A peer wrote what no peer may write into the hub; it is quarantined."""


class RemoteError(ShmhubError):
    """An exception was raised in a plugin."""

    type_name: str = ""
    remote_traceback: str = ""
    original: BaseException | None = None
    """What was raised there, if it could be pickled and is known here."""


class PluginDiedError(PeerGoneError):
    """A plugin died with calls in flight."""

    outcome: Outcome = "may_have_run"
    exitcode: int | None = None
    signal: int | None = None
    stderr_tail: str = ""
    plugin: str = ""
    method: str | None = None
    attempts: int = 0


class PluginStartError(ShmhubError):
    """A plugin did not come up."""

    stderr_tail: str = ""


class PluginMissingMethod(ShmhubError, AttributeError):
    """The plugin has no method of that name."""


class InterfaceError(ShmhubError):
    """The plugin does not offer the interface that was asked for."""


class CodecError(ShmhubError):
    """A value cannot be encoded or decoded by the codec in use."""


class QueueFullError(ShmhubError):
    """As many calls as allowed are waiting already."""
