"""Payloads in which any wrong byte, length, order or owner is found.

    offset 0   crc32 of all that follows
           4   length of the whole payload
           8   sender (a number the test chose)
          10   salt
          12   sequence
          16   body: a block derived from sender, sequence and salt, repeated

Payloads shorter than the header are a prefix of a hash of (sender, sequence, length): they can be
checked by one who knows what to expect (the message id carries the sequence).
"""

from __future__ import annotations

import hashlib
import random
import struct
import zlib
from typing import NamedTuple

HEADER = struct.Struct("<IIHHI")
_BLOCK = 4096


class Pattern(NamedTuple):
    """What a well-formed payload says about itself."""

    sender: int
    sequence: int
    length: int


class WrongPayload(AssertionError):
    """A payload is not what its sender wrote."""


def _body(sender: int, sequence: int, salt: int, length: int) -> bytes:
    block = random.Random((sender << 48) ^ (sequence << 16) ^ salt).randbytes(min(length, _BLOCK))
    if length <= _BLOCK:
        return block
    return (block * (length // _BLOCK + 1))[:length]


def _short(sender: int, sequence: int, length: int) -> bytes:
    text = f"{sender}/{sequence}/{length}".encode()
    return hashlib.blake2b(text, digest_size=HEADER.size).digest()[:length]


def make(length: int, sender: int = 0, sequence: int = 0) -> bytes:
    """A payload of exactly ``length`` bytes."""
    if length < HEADER.size:
        return _short(sender, sequence, length)
    salt = (length * 2654435761) & 0xFFFF
    body = _body(sender, sequence, salt, length - HEADER.size)
    rest = HEADER.pack(0, length, sender, salt, sequence)[4:]
    crc = zlib.crc32(body, zlib.crc32(rest))
    return struct.pack("<I", crc) + rest + body


def check(payload: object, *, sender: int | None = None, sequence: int | None = None) -> Pattern:
    """The pattern in ``payload`` (any buffer), or WrongPayload that says what is wrong."""
    view = memoryview(payload).cast("B")  # type: ignore[arg-type]
    with view:
        if len(view) < HEADER.size:
            return _check_short(view, sender, sequence)
        found = _check_long(view)
    if sender is not None and found.sender != sender:
        raise WrongPayload(f"a payload of sender {found.sender}, expected {sender}: {found}")
    if sequence is not None and found.sequence != sequence:
        raise WrongPayload(f"sequence {found.sequence}, expected {sequence}: {found}")
    return found


def _check_long(view: memoryview) -> Pattern:
    crc, length, sender, _salt, sequence = HEADER.unpack_from(view)
    found = Pattern(sender, sequence, length)
    if length != len(view):
        raise WrongPayload(f"{len(view)} bytes arrived, the payload says {length}: {found}")
    if zlib.crc32(view[4:]) != crc:
        raise WrongPayload(f"bytes differ from what was written: {found}, {_difference(view)}")
    return found


def _difference(view: memoryview) -> str:
    """Where the first wrong byte is, for the one who has to find out why."""
    _crc, length, sender, salt, sequence = HEADER.unpack_from(view)
    expected = _body(sender, sequence, salt, max(0, length - HEADER.size))
    for index, (have, want) in enumerate(zip(view[HEADER.size :], expected, strict=False)):
        if have != want:
            return f"first at offset {HEADER.size + index}: {have:#04x} instead of {want:#04x}"
    return "in the header"


def _check_short(view: memoryview, sender: int | None, sequence: int | None) -> Pattern:
    if sender is None or sequence is None:
        raise ValueError(f"a payload of {len(view)} bytes needs sender and sequence to be checked")
    expected = _short(sender, sequence, len(view))
    if view != expected:
        raise WrongPayload(f"{bytes(view)!r} instead of {expected!r} ({sender=} {sequence=})")
    return Pattern(sender, sequence, len(view))
