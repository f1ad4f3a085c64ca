"""Which files the demo works on: found in a folder, or made for it.

Finding never fails for what it finds: what cannot be read, or is too much for a demo, is left out
and named with the reason.
"""

from __future__ import annotations

import math
import os
import random
import stat
import sysconfig
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shmhub.demo import filters, png
from shmhub.demo.jobs import Kind

__all__ = ["DEFAULT_LIMIT", "MAX_FILE", "Found", "Source", "find", "generate", "installation"]

DEFAULT_LIMIT: Final = 240
MAX_FILE: Final = 32 << 20
_MAX_LOOKED_AT: Final = 50_000

_TEXTS: Final = (
    ".c .csv .h .htm .html .ini .js .json .log .md .py .pyi .rst .sh .svg .toml .ts .txt .xml .yaml"
)
_SUFFIXES: Final = dict.fromkeys(_TEXTS.split(), Kind.TEXT) | {
    ".css": Kind.CSS,
    ".png": Kind.IMAGE,
}
_PASSED_OVER: Final = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})


@dataclass(frozen=True, slots=True)
class Source:
    """A file to work on. `raster` is what its pixels take, 0 if it has none or is broken."""

    path: Path
    kind: Kind
    size: int
    raster: int = 0


@dataclass(slots=True)
class Found:
    sources: list[Source] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    left_out: int = 0
    """Usable files beyond the limit."""


def installation() -> Path:
    """The standard library of the running Python: the files everyone has."""
    return Path(sysconfig.get_path("stdlib"))


def find(folder: Path, limit: int = DEFAULT_LIMIT) -> Found:
    """Files below `folder` that the plugins can work on, at most `limit`, of all sizes.

    Raises `OSError` only if `folder` itself cannot be listed.
    """
    os.listdir(folder)
    found = Found()
    usable: dict[Kind, list[Source]] = {kind: [] for kind in Kind}
    for path in _walk(folder, found.skipped):
        kind = _SUFFIXES.get(path.suffix.lower())
        if kind is None:
            continue
        try:
            source = _look_at(path, kind)
        except (OSError, ValueError) as error:
            found.skipped.append((path, _reason(error)))
        else:
            usable[kind].append(source)
    found.sources = _choose(usable, limit)
    found.left_out = sum(map(len, usable.values())) - len(found.sources)
    return found


def _walk(folder: Path, skipped: list[tuple[Path, str]]) -> Iterator[Path]:
    """Files below `folder` in a fixed order, links to folders not followed."""

    def unreadable(error: OSError) -> None:
        skipped.append((Path(error.filename or folder), _reason(error)))

    looked_at = 0
    for where, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(f for f in folders if f not in _PASSED_OVER and not f.startswith("."))
        for name in sorted(names):
            looked_at += 1
            if looked_at > _MAX_LOOKED_AT:
                skipped.append((Path(where), f"more than {_MAX_LOOKED_AT} files: the rest unseen"))
                return
            yield Path(where, name)


def _look_at(path: Path, kind: Kind) -> Source:
    """Open it as the host will, so that a file nobody may read is known before work begins."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("not a regular file")  # opening a pipe would wait for its writer
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE:
            raise ValueError(f"{size} bytes, more than the {MAX_FILE} this demo takes")
        raster = _raster_size(file.read(33)) if kind == Kind.IMAGE else 0
    return Source(path, kind, size, raster)


def _raster_size(start: bytes) -> int:
    """From a PNG's first bytes, unchecked otherwise: only to know how much work it will be."""
    try:
        header = png.header_of(start)
    except png.PngError:
        return 0
    size = png.raster_size(header, 0)
    return size if size <= png.MAX_RASTER else 0


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _choose(usable: dict[Kind, list[Source]], limit: int) -> list[Source]:
    """At most `limit` in all: few kinds in full, the rest of the room for the many."""
    chosen: list[Source] = []
    by_number = sorted(usable.values(), key=len)
    for index, sources in enumerate(by_number):
        share = (limit - len(chosen)) // (len(by_number) - index)
        chosen += _spread(sources, share)
    return chosen


def _spread(sources: Sequence[Source], count: int) -> list[Source]:
    """`count` of them, evenly from the smallest to the largest."""
    by_size = sorted(sources, key=lambda source: (source.size, source.path))
    if count >= len(by_size):
        return by_size
    if count <= 1:
        return by_size[-1:] if count else []
    last = len(by_size) - 1
    return [by_size[i * last // (count - 1)] for i in range(count)]


# -- files made for the demo ---------------------------------------------------------------------

_PHOTO: Final = png.Header(2480, 2400, 8, 2)  # 17 MB of pixels: more than any ordinary slot holds
_SCAN: Final = png.Header(2200, 2000, 8, 0)
_CHART: Final = png.Header(1000, 800, 8, 3)


def generate(folder: Path, seed: int = 1) -> list[Source]:
    """Write style sheets and images into `folder`, the same ones for the same seed.

    They are of such sizes that every size class of the hub is used.
    """
    rng = random.Random(seed)
    made = []
    for name, rules in (("small.css", 40), ("medium.css", 700), ("large.css", 2500)):
        path = folder / name
        path.write_text("".join(_style_sheet(rng, rules)), encoding="utf-8")
        made.append(path)
    for name, header in (("photo.png", _PHOTO), ("scan.png", _SCAN), ("chart.png", _CHART)):
        path = folder / name
        path.write_bytes(_image(header, _scenery(header, rng), filters.QUICK))
        made.append(path)
    for name, header in _icons():
        path = folder / name
        path.write_bytes(_image(header, _scenery(header, rng), filters.ALL))
        made.append(path)
    return [_look_at(path, _SUFFIXES[path.suffix]) for path in made]


def _icons() -> Iterator[tuple[str, png.Header]]:
    """One small image of each colour type and depth, plain and interlaced."""
    for colour, depths in png.DEPTHS.items():
        for depth in depths:
            for interlace in (0, 1):
                name = f"icon-type{colour}-{depth}bit{'-adam7' * interlace}.png"
                yield name, png.Header(61, 47, depth, colour, interlace=interlace)


def _scenery(header: png.Header, rng: random.Random) -> Iterator[bytes]:
    """Rows of soft waves that drift from row to row, with noise as a camera makes it.

    Less of it would take longer: deflate spends its time on looking for the longest match.
    """
    longest = max(length for _, length in header.passes())
    period = 4 * longest
    waves = bytes(
        int(128 + 90 * math.sin(x / 37) + 36 * math.sin(x / 211)) for x in range(period + longest)
    )
    number = 0
    for rows, length in header.passes():
        grain = int.from_bytes(b"\x0f\x07\x0f" * (length // 3 + 1), "little")
        for _ in range(rows):
            start = number * 11 % period
            noise = int.from_bytes(rng.randbytes(length), "little") & grain
            row = int.from_bytes(waves[start : start + length], "little") ^ noise
            yield row.to_bytes(length, "little")
            number += 1


def _image(header: png.Header, rows: Iterable[bytes], kinds: Sequence[int]) -> bytes:
    """A PNG whose rows take turns with the given filters: badly chosen, as by a hasty program."""
    stream = zlib.compressobj(1)
    out = bytearray()
    source = iter(rows)
    for count, length in header.passes():
        row_filter = filters.row_filter(length, header.unit)
        above = 0
        for number in range(count):
            row = int.from_bytes(next(source), "little")
            kind = kinds[number % len(kinds)]
            filtered = row_filter.apply(kind, row, above)
            out += stream.compress(bytes([kind]) + filtered.to_bytes(length, "little"))
            above = row
    out += stream.flush()
    palette = png.chunk(b"PLTE", bytes(i * 7 & 255 for i in range(3 << min(header.depth, 8))))
    before = png.chunk(b"gAMA", (45455).to_bytes(4, "big"))
    after = png.chunk(b"tEXt", b"Comment\0made by the demo of shmhub")
    return png.write(header, bytes(out), before + palette * (header.colour == 3), after)


_TAGS: Final = ("article", "nav", "section", "a", "li", "h1", "figure", "table", "input")
_DECLARATIONS: Final = (
    "color : #{n:06x};",
    "color: #aabbcc ;",
    "margin : 0.{n}em  -0.50em  0  1.{n}0rem ;",
    "width : calc( 100% - ( {n}px + 2 * 0.5em ) ) ;",
    "background : url( 'img/{n} a;b.png' )  no-repeat , url( tiles/{n}.png ) ;",
    'content : "/* {n} no comment */ }} ;" ;',
    "font : 12px / 1.50 'Noto  Sans' , sans-serif !  important ;",
    "--own-{n} : {{ a : {n} ; }} ;",
    "grid-template-areas : 'a  b' 'c  d' ;",
    "transition : all 0.{n}s cubic-bezier( 0.10 , 0.7 , 1.0 , 0.1 ) ;",
)


def _style_sheet(rng: random.Random, rules: int) -> Iterator[str]:
    yield '@charset "utf-8";\n/*! made by the demo of shmhub */\n'
    for number in range(rules):
        depth = rng.randrange(1, 4)
        selector = rng.choice((" ", " > ", " , ", " + ")).join(rng.choices(_TAGS, k=depth))
        body = "".join(
            f"\n    {line.format(n=rng.randrange(1, 10000))}"
            for line in rng.choices(_DECLARATIONS, k=rng.randrange(1, 9))
        )
        rule = f"/* rule {number} */\n{selector}:not( .x{number} ) {{{body}\n}}\n\n"
        if number % 9 == 0:
            rule = f"@media screen and ( min-width : {rng.randrange(2000)}px ) {{\n{rule}}}\n"
        yield rule
