"""The compiled core, or what stands in for it where it cannot be built.

Everything above imports `core` from here, so that `import shmhub` works on every platform; making
a hub or attaching to one raises UnsupportedPlatformError where there is no core.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from shmhub._errors import UnsupportedPlatformError

__all__ = ["core"]


class _Missing:
    """Stands in for a type of the core: subclassing and isinstance work, instances cannot be."""

    reason: ImportError

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse(type(self).__name__, self.reason)

    @classmethod
    def from_raw_fd(cls, fd: int) -> NoReturn:
        _refuse(f"{cls.__name__}.from_raw_fd", cls.reason)


def _refuse(tried: str, reason: ImportError) -> NoReturn:
    raise UnsupportedPlatformError(
        f"{tried}: this installation has no compiled core ({reason}); shmhub needs Linux and "
        f"CPython, and was not built for {sys.platform} or not built at all: reinstall it where "
        "there is a C compiler"
    ) from reason


class _MissingCore:
    """Stands in for the module."""

    def __init__(self, reason: ImportError) -> None:
        self._reason = reason
        self.abi: dict[str, Any] = {}
        for name in ("Host", "Peer", "Doorbell", "Transport", "Slot", "Frame", "Turn"):
            setattr(self, name, type(name, (_Missing,), {"reason": reason}))

    def inspect(self, path_or_fd: str | int) -> NoReturn:
        _refuse("inspect", self._reason)

    def die_with_parent(self, parent: int, grace: int) -> NoReturn:
        _refuse("die_with_parent", self._reason)

    def unlink_if_stale(self, path: str) -> NoReturn:
        _refuse("unlink_if_stale", self._reason)

    def fsck(self, path_or_fd: str | int, repair: bool) -> NoReturn:
        _refuse("fsck", self._reason)

    def fsck_dump(self, path: str, which: int) -> NoReturn:
        _refuse("fsck", self._reason)


if TYPE_CHECKING:
    from shmhub import _core as core
else:
    try:
        # Not `from shmhub import _core`: its error would speak of a circular import.
        core = importlib.import_module("shmhub._core")
    except ImportError as error:
        core = _MissingCore(error)
