"""Pack a text: deflate, with the SHA-256 of what went in.

Pure functions on bytes: nothing here knows of the hub.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Final

__all__ = ["DIGEST_SIZE", "pack", "unpack"]

DIGEST_SIZE: Final = 32
"""Bytes of SHA-256 in front of the deflated text."""


def pack(data: bytes | bytearray | memoryview) -> bytes:
    """The digest of `data` (32 bytes) followed by `data` deflated as far as zlib can."""
    return hashlib.sha256(data).digest() + zlib.compress(data, 9)


def unpack(packed: bytes | bytearray | memoryview) -> bytes:
    """Undo `pack`. Raises `ValueError` if the text is not the one that was packed."""
    with memoryview(packed) as view:
        try:
            data = zlib.decompress(view[DIGEST_SIZE:])
        except zlib.error as error:
            raise ValueError(f"not a packed text: {error}") from None
        if hashlib.sha256(data).digest() != bytes(view[:DIGEST_SIZE]):
            raise ValueError("the digest in front does not match the text")
    return data
