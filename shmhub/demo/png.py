"""Take a PNG apart into pixels and put it together again, smaller, pixels untouched.

`decode` gives a *raster*: one buffer with everything an image consists of, so that it can cross
the hub as one payload and be encoded elsewhere:

    4   magic "RAS1"
    13  width, height, bit depth, colour type, compression, filter, interlace: as in IHDR
    4   length of the chunks before the image data, 4 of those after it (little-endian)
    n   those chunks, each complete with its length and checksum
    m   the rows as in the file but unfiltered, of each Adam7 pass in turn if interlaced

An interlaced image stays interlaced. All colour types and bit depths; checksums and the order of
chunks are checked. Reads PNG 1.2 (ISO 15948), and knows nothing of the hub.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from shmhub.demo import filters

__all__ = [
    "DEPTHS",
    "MAX_RASTER",
    "Header",
    "Parsed",
    "PngError",
    "chunk",
    "decode",
    "encode",
    "header_of",
    "make_raster",
    "parse",
    "raster_size",
    "write",
]

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
MAX_RASTER: Final = 48 << 20
"""Largest raster `decode` makes; a demo that must fit in small memory has to stop somewhere."""

_MAGIC: Final = b"RAS1"
_HEAD: Final = struct.Struct("<4s13sII")
_IHDR: Final = struct.Struct(">IIBBBBB")
_CHUNK: Final = struct.Struct(">I4s")

_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PALETTE_TYPE: Final = 3
_NO_PALETTE: Final = (0, 4)

# First column, first row, column step, row step of each Adam7 pass.
_ADAM7: Final = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)

_INFLATE_STEP: Final = 1 << 17
_DEFLATE_STEP: Final = 1 << 17
# Above this, only filters that are undone a row at a time are used: an image written here must
# be read here, too, in reasonable time.
_QUICK_ABOVE: Final = 4 << 20
_TRY_ALL_BELOW: Final = 1 << 20

_Out = TypeVar("_Out")


class PngError(ValueError):
    """Not a PNG, or a broken one, or one too large for this demo; the message says which."""


class Header(NamedTuple):
    """The fields of IHDR."""

    width: int
    height: int
    depth: int
    colour: int
    compression: int = 0
    filtering: int = 0
    interlace: int = 0

    @property
    def pixel_bits(self) -> int:
        return self.depth * _CHANNELS[self.colour]

    @property
    def unit(self) -> int:
        """Bytes from a byte to its left neighbour."""
        return max(1, self.pixel_bits // 8)

    def passes(self) -> list[tuple[int, int]]:
        """Rows and bytes a row of each pass that has any pixels."""
        grid = _ADAM7 if self.interlace else ((0, 0, 1, 1),)
        found = []
        for left, top, across, down in grid:
            columns = -(-(self.width - left) // across)
            rows = -(-(self.height - top) // down)
            if columns > 0 and rows > 0:
                found.append((rows, (columns * self.pixel_bits + 7) // 8))
        return found

    def pixels_size(self) -> int:
        return sum(rows * length for rows, length in self.passes())

    def packed(self) -> bytes:
        return _IHDR.pack(*self)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A PNG's parts. `data` are the pieces of its deflated rows; they borrow from the input."""

    header: Header
    before: bytes
    after: bytes
    data: tuple[memoryview, ...]

    def raster_size(self) -> int:
        return raster_size(self.header, len(self.before) + len(self.after))


def raster_size(header: Header, chunks: int) -> int:
    """Bytes of a raster with `chunks` bytes of chunks beside the image data."""
    return _HEAD.size + chunks + header.pixels_size()


# -- reading -------------------------------------------------------------------------------------


def parse(png: bytes | bytearray | memoryview) -> Parsed:
    """Split `png` into its parts, checking signature, checksums and the order of chunks."""
    view = memoryview(png)
    if bytes(view[: len(SIGNATURE)]) != SIGNATURE:
        raise PngError("not a PNG: the signature is missing")
    header: Header | None = None
    before, after = bytearray(), bytearray()
    data: list[memoryview] = []
    palette = ended = False
    for kind, body, whole in _chunks(view):
        if header is None:
            header = _parse_header(kind, body)
        elif kind == b"IDAT":
            if after:
                raise PngError("image data in two places")
            data.append(body)
        elif kind == b"IEND":
            ended = True
            break
        else:
            _check_chunk(kind, body, header, palette, bool(data))
            palette = palette or kind == b"PLTE"
            (after if data else before).extend(whole)
    if header is None or not ended:
        raise PngError("the file ends before its last chunk")
    if not data:
        raise PngError("no image data")
    if header.colour == _PALETTE_TYPE and not palette:
        raise PngError("a palette image without a palette")
    return Parsed(header, bytes(before), bytes(after), tuple(data))


def header_of(start: bytes) -> Header:
    """The header at the beginning of a file of which only the first 33 bytes are at hand."""
    if start[: len(SIGNATURE)] != SIGNATURE:
        raise PngError("not a PNG: the signature is missing")
    return _parse_header(start[12:16], memoryview(start)[16:29])


def _chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Type, content and all bytes of each chunk up to and including IEND."""
    position = len(SIGNATURE)
    while position < len(view):
        if len(view) - position < 12:
            raise PngError("the file ends within a chunk")
        length, kind = _CHUNK.unpack_from(view, position)
        end = position + 12 + length
        name = kind.decode("latin-1")
        if not kind.isalpha():
            raise PngError(f"chunk type {kind!r} at byte {position} is not four letters")
        if end > len(view):
            raise PngError(f"the file ends within its {name} chunk")
        stored = int.from_bytes(view[end - 4 : end], "big")
        if zlib.crc32(view[position + 4 : end - 4]) != stored:
            raise PngError(f"wrong checksum of the {name} chunk at byte {position}")
        yield kind, view[position + 8 : end - 4], view[position:end]
        if kind == b"IEND":
            return
        position = end


def _parse_header(kind: bytes, body: memoryview) -> Header:
    if kind != b"IHDR" or len(body) != _IHDR.size:
        raise PngError("the first chunk is not a PNG header")
    header = Header(*_IHDR.unpack(body))
    if not (0 < header.width < 1 << 31 and 0 < header.height < 1 << 31):
        raise PngError(f"impossible size {header.width} x {header.height}")
    if header.depth not in DEPTHS.get(header.colour, ()):
        raise PngError(f"impossible colour type {header.colour} with {header.depth} bits")
    if header.compression or header.filtering or header.interlace > 1:
        raise PngError("unknown compression, filter or interlace method")
    return header


def _check_chunk(
    kind: bytes, body: memoryview, header: Header, palette: bool, data_seen: bool
) -> None:
    """Refuse what may not be where it is. Whatever is let through is copied as it is."""
    if kind == b"PLTE":
        if palette or data_seen or header.colour in _NO_PALETTE:
            raise PngError("a palette where none may be")
        if len(body) % 3 or not 3 <= len(body) <= 768:
            raise PngError(f"a palette of {len(body)} bytes")
    elif kind[0:1].isupper():
        raise PngError(f"critical chunk {kind.decode('latin-1')} of unknown meaning")


class _Inflater:
    """Reads a deflate stream that lies in several pieces, never more of it than asked for."""

    def __init__(self, pieces: Sequence[memoryview]) -> None:
        self._pieces = iter(pieces)
        self._stream = zlib.decompressobj()
        self._ready = bytearray()
        self._input: bytes | memoryview = b""

    def read(self, size: int) -> bytes:
        while len(self._ready) < size:
            if not self._more():
                raise PngError("the image data ends early")
        taken = bytes(self._ready[:size])
        del self._ready[:size]
        return taken

    def _more(self) -> bool:
        """Inflate a step further. False at the end of the stream or of what there is of it."""
        while not self._stream.eof:
            if not self._input:
                piece = next(self._pieces, None)
                if piece is None:
                    return False
                self._input = piece
                continue
            try:
                out = self._stream.decompress(self._input, _INFLATE_STEP)
            except zlib.error as error:
                raise PngError(f"broken image data: {error}") from None
            self._input = self._stream.unconsumed_tail
            if out:
                self._ready += out
                return True
        return False

    def finish(self) -> None:
        """Check that the stream is complete, its checksum right, and nothing is left."""
        if self._ready or self._more():
            raise PngError("more image data than the header says")
        if not self._stream.eof:
            raise PngError("the image data ends early")


def decode(
    png: bytes | bytearray | memoryview,
    alloc: Callable[[int], _Out],
    max_raster: int = MAX_RASTER,
) -> _Out:
    """Decode `png` into a raster in a buffer obtained from `alloc(nbytes)`, and return that.

    Raises `PngError`. Holds no view of the buffer on return.
    """
    parsed = parse(png)
    size = parsed.raster_size()
    if size > max_raster:
        raise PngError(f"decodes to {size} bytes, more than the {max_raster} this demo takes")
    out = alloc(size)
    buffer: Any = out
    with memoryview(buffer) as view:
        start = _write_head(view, parsed.header, parsed.before, parsed.after)
        _unfilter(parsed, view, start)
    return out


def _write_head(view: memoryview, header: Header, before: bytes, after: bytes) -> int:
    """Write all of a raster but its rows; returns where those begin."""
    _HEAD.pack_into(view, 0, _MAGIC, header.packed(), len(before), len(after))
    start = _HEAD.size + len(before) + len(after)
    view[_HEAD.size : start] = before + after
    return start


def _unfilter(parsed: Parsed, view: memoryview, position: int) -> None:
    inflater = _Inflater(parsed.data)
    for rows, length in parsed.header.passes():
        row_filter = filters.row_filter(length, parsed.header.unit)
        above = bytes(length)
        for _ in range(rows):
            raw = inflater.read(length + 1)
            try:
                above = row_filter.undo(raw[0], raw[1:], above)
            except ValueError as error:
                raise PngError(str(error)) from None
            view[position : position + length] = above
            position += length
    inflater.finish()


# -- writing -------------------------------------------------------------------------------------


def make_raster(header: Header, rows: bytes, before: bytes = b"", after: bytes = b"") -> bytearray:
    """A raster from its parts; `rows` as in the module's description."""
    if len(rows) != header.pixels_size():
        raise ValueError(f"{len(rows)} bytes of rows, the header says {header.pixels_size()}")
    raster = bytearray(raster_size(header, len(before) + len(after)))
    with memoryview(raster) as view:
        start = _write_head(view, header, before, after)
        view[start:] = rows
    return raster


def encode(raster: bytes | bytearray | memoryview) -> bytes:
    """Encode a raster into as small a PNG as can be had: each way that may pay is tried."""
    header, before, after, start = _read_head(raster)
    with memoryview(raster) as whole, whole[start:] as rows:
        image = min((_deflate(header, rows, *way) for way in _ways(header)), key=len)
    return write(header, image, before, after)


def _read_head(raster: bytes | bytearray | memoryview) -> tuple[Header, bytes, bytes, int]:
    if len(raster) < _HEAD.size:
        raise PngError("not a raster: shorter than its head")
    magic, packed, before, after = _HEAD.unpack_from(raster)
    if magic != _MAGIC:
        raise PngError("not a raster: the magic is missing")
    header = _parse_header(b"IHDR", memoryview(packed))
    start = _HEAD.size + before + after
    if len(raster) != start + header.pixels_size():
        raise PngError("a raster whose length does not fit its head")
    with memoryview(raster) as view:
        chunks = bytes(view[_HEAD.size : start])
    return header, chunks[:before], chunks[before:], start


def _ways(header: Header) -> list[tuple[tuple[int, ...], int]]:
    """The filters to choose from a row, and the deflate strategy, of each way worth trying.

    Indices into a palette and bits are no quantities: filtering them seldom helps.
    """
    unfiltered: tuple[tuple[int, ...], int] = ((filters.NONE,), zlib.Z_DEFAULT_STRATEGY)
    if header.depth < 8 or header.colour == _PALETTE_TYPE:
        return [unfiltered]
    size = header.pixels_size()
    kinds: tuple[int, ...] = filters.QUICK if size > _QUICK_ABOVE else filters.ALL
    ways: list[tuple[tuple[int, ...], int]] = [(kinds, zlib.Z_FILTERED)]
    if size <= _TRY_ALL_BELOW:
        ways += [(kinds, zlib.Z_DEFAULT_STRATEGY), unfiltered]
    return ways


def _deflate(header: Header, rows: memoryview, kinds: Sequence[int], strategy: int) -> bytes:
    """Filter and deflate all rows, a bounded piece at a time."""
    stream = zlib.compressobj(9, zlib.DEFLATED, 15, 9, strategy)
    out = bytearray()
    waiting = bytearray()
    for kind, filtered in _filtered(header, rows, kinds):
        waiting.append(kind)
        waiting += filtered
        if len(waiting) >= _DEFLATE_STEP:
            out += stream.compress(waiting)
            waiting.clear()
    out += stream.compress(waiting)
    out += stream.flush()
    return bytes(out)


def _filtered(
    header: Header, rows: memoryview, kinds: Sequence[int]
) -> Iterator[tuple[int, bytes | memoryview]]:
    position = 0
    for count, length in header.passes():
        if kinds == (filters.NONE,):
            for _ in range(count):
                yield filters.NONE, rows[position : position + length]
                position += length
            continue
        row_filter = filters.row_filter(length, header.unit)
        above = 0
        for _ in range(count):
            row = int.from_bytes(rows[position : position + length], "little")
            kind, filtered = row_filter.choose(row, above, kinds)
            yield kind, filtered.to_bytes(length, "little")
            above = row
            position += length


def write(header: Header, image: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """The file: `image` is the deflated rows, `before` and `after` complete chunks beside it."""
    return b"".join(
        (
            SIGNATURE,
            chunk(b"IHDR", header.packed()),
            before,
            chunk(b"IDAT", image),
            after,
            chunk(b"IEND", b""),
        )
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    """A complete chunk: length, type, content, checksum."""
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return _CHUNK.pack(len(body), kind) + body + checksum.to_bytes(4, "big")
