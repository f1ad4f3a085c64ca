"""What host and plugins of the demo say to each other, and the work itself.

Every message is one payload with labels; nothing has to be parsed that the labels can say:

    channel     which plugin (`Kind`)
    method      what to do, or what was done (`Method`)
    message_id  chosen by the host, and the same in every message about that job
    flags       `Status` in bits 0..7; in bits 8..15 the size class of the payload's slot plus 1,
                0 for a payload that needed none

A plugin says HELLO (payload: its process id) when it is ready. To each job it answers twice:
STARTED, empty, when it begins, and then DONE with the result or REFUSED with the reason, which is
as much a right answer to a broken file as any other. The work is the same code wherever it runs,
so a plugin's answer can be checked against `run_here`.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from shmhub.demo import css, png, text

__all__ = [
    "HUB_CLASSES",
    "INLINE_MAX",
    "LAST",
    "MAX_BYTES",
    "WORK",
    "Kind",
    "Method",
    "Outcome",
    "Refused",
    "Status",
    "do",
    "flags_for",
    "run_here",
    "size_class_of",
    "status_of",
]

Readable = bytes | bytearray | memoryview
Alloc = Callable[[int], Any]
"""Bytes wanted -> a writable buffer of that size: `bytearray`, or a slot of the hub."""

INLINE_MAX: Final = 240
"""Payloads up to this size travel in the ring itself and need no slot."""

KIB: Final = 1 << 10
MIB: Final = 1 << 20

# (slot size, slots at the start, most slots). The defaults of shmhub up to 16 MiB; of the jumbo
# classes only the one that the demo's largest image needs.
HUB_CLASSES: Final = (
    (1 * KIB, 1024, 1024),
    (16 * KIB, 256, 256),
    (256 * KIB, 32, 64),
    (4 * MIB, 8, 8),
    (16 * MIB, 4, 4),
    (64 * MIB, 0, 2),
)
MAX_BYTES: Final = 128 * MIB
"""Most memory the hub may take: a quarter of the smallest machine the demo must run on."""


class Kind(enum.IntEnum):
    """The plugins; also the channel of every message to and from each."""

    CSS = 1
    IMAGE = 2
    TEXT = 3

    @property
    def label(self) -> str:
        return self.name.lower()


class Method(enum.IntEnum):
    HELLO = 1
    MINIFY = 2
    DECODE = 3
    ENCODE = 4
    PACK = 5


class Status(enum.IntEnum):
    DONE = 0
    STARTED = 1
    REFUSED = 2


class Refused(ValueError):
    """The input cannot be worked on; the message says why."""


FIRST: Final = {Kind.CSS: Method.MINIFY, Kind.IMAGE: Method.DECODE, Kind.TEXT: Method.PACK}
"""What is done with a file of each kind, to begin with."""

LAST: Final = {Kind.CSS: Method.MINIFY, Kind.IMAGE: Method.ENCODE, Kind.TEXT: Method.PACK}
"""The step whose result is the file's result: an image is decoded first, then encoded."""


def flags_for(status: Status, size_class: int | None = None) -> int:
    return status | (0 if size_class is None else size_class + 1) << 8


def status_of(flags: int) -> Status:
    return Status(flags & 0xFF)


def size_class_of(flags: int) -> int | None:
    return ((flags >> 8) & 0xFF) - 1 if flags >> 8 & 0xFF else None


# -- the work ------------------------------------------------------------------------------------


def _minify(payload: Readable, alloc: Alloc) -> bytes:
    return css.minify(payload)


def _decode(payload: Readable, alloc: Alloc) -> Any:
    return png.decode(payload, alloc)


def _encode(payload: Readable, alloc: Alloc) -> bytes:
    return png.encode(payload)


def _pack(payload: Readable, alloc: Alloc) -> bytes:
    return text.pack(payload)


WORK: Final[dict[int, Callable[[Readable, Alloc], Any]]] = {
    Method.MINIFY: _minify,
    Method.DECODE: _decode,
    Method.ENCODE: _encode,
    Method.PACK: _pack,
}


def do(method: int, payload: Readable, alloc: Alloc) -> Any:
    """Do a job: returns `bytes`, or the buffer from `alloc` that it wrote its result to.

    Raises `Refused`. When that is dropped, no view of `payload` is left: its slot is free at once.
    """
    work = WORK.get(method)
    if work is None:
        raise Refused(f"method {method} is none of this demo's")
    reason = ""
    try:
        return work(payload, alloc)
    except png.PngError as error:
        # Its traceback holds views of the payload: only the text may outlive this function.
        reason = str(error)
    raise Refused(reason)


# -- what must come of it ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file: never the result itself, of which there may be gigabytes."""

    status: Status
    size: int
    """Bytes of the result; of the reason, if refused."""
    digests: tuple[str, ...]
    """SHA-256 of the result of each step; of an image, first of its decoded pixels."""


def digest(payload: Readable) -> str:
    return hashlib.sha256(payload).hexdigest()


def run_here(kind: Kind, data: Readable) -> Outcome:
    """Do all the work on one file in this process.

    An image is decoded once more from what it was encoded to: `ValueError` if that is not the
    same to the last bit.
    """
    digests: list[str] = []
    payload: Any = data
    method = FIRST[kind]
    try:
        while True:
            payload = do(method, payload, bytearray)
            digests.append(digest(payload))
            if method == LAST[kind]:
                break
            method = Method.ENCODE
        if kind == Kind.IMAGE and digest(do(Method.DECODE, payload, bytearray)) != digests[0]:
            raise ValueError("the pixels are not the same after encoding")
    except Refused as error:
        reason = str(error).encode()
        return Outcome(Status.REFUSED, len(reason), (*digests, digest(reason)))
    return Outcome(Status.DONE, len(payload), tuple(digests))
