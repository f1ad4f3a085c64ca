"""Messages that come in parts: what has come so far, and no more of it than there may be.

One part after the other of a message comes through the ring, its end as the message itself. The
first says that it is the first: what follows one that was not taken is not taken for a beginning.
Knows nothing of calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["PARTS_MAX", "Key", "Parts"]

Key = tuple[int, int, int]
"""Message id, kind, and which of the call's streams."""

PARTS_MAX = 1 << 32  # bytes of one message
UNASKED_MAX = 256 << 20  # bytes of all messages that nobody here waits for
UNASKED_MOST = 1000  # such messages


class Parts:
    """What came of each; only who reads may use it.

    Args:
        bounded: hold no more than UNASKED_MAX of what nobody here has asked for.
    """

    def __init__(self, *, bounded: bool) -> None:
        self._bounded = bounded
        self._asked: dict[Key, bytearray] = {}
        self._unasked: dict[Key, bytearray] = {}
        self._unasked_bytes = 0

    def add(self, key: Key, data: Any, *, first: bool, asked: bool) -> bool:
        """One more part. False: it, and so the whole message, is not taken."""
        if asked:
            if first:
                self._asked[key] = bytearray()
            held = self._asked.get(key)
            if held is None or len(held) + len(data) > PARTS_MAX:
                self._asked.pop(key, None)
                return False
            held += data
            return True
        if first:
            self.drop(key)
            if self._bounded and len(self._unasked) >= UNASKED_MOST:
                return False
            self._unasked[key] = bytearray()
        held = self._unasked.get(key)
        most = UNASKED_MAX - self._unasked_bytes if self._bounded else PARTS_MAX - len(held or b"")
        if held is None or len(data) > most:
            self.drop(key)
            return False
        held += data
        self._unasked_bytes += len(data)
        return True

    def take(self, key: Key) -> bytearray | None:
        """What came before the end of that message; None: it was not taken, or never came."""
        held = self._asked.pop(key, None)
        if held is None:
            held = self._unasked.pop(key, None)
            self._unasked_bytes -= len(held or b"")
        return held

    def keep_asked(self, wanted: Callable[[Key], bool]) -> None:
        """Of the answers and items, let go of those that nobody waits for any more."""
        for key in [one for one in self._asked if not wanted(one)]:
            del self._asked[key]

    def drop(self, key: Key) -> None:
        """The rest will not come."""
        self.take(key)

    def clear(self) -> None:
        """Nothing more will come."""
        self._asked.clear()
        self._unasked.clear()
        self._unasked_bytes = 0
