"""Web fonts: unpack, subset, pack (fontTools, brotli). A font between the calls is an sfnt file."""

from __future__ import annotations

import io

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

import shmhub

__all__ = ["pack", "plugin", "subset", "unpack"]

plugin = shmhub.Plugin("font")


@plugin.method(idempotent=True)
def unpack(data: bytes) -> bytes:
    """The sfnt (TrueType or OpenType) file in a WOFF2 file; ``TTLibError`` if it is none."""
    font = _open(data)
    font.flavor = None
    return _saved(font)


@plugin.method(idempotent=True)
def subset(sfnt: bytes, characters: str) -> bytes:
    """The font with those glyphs only that ``characters`` need."""
    font = _open(sfnt)
    options = Options()
    options.notdef_outline = True
    options.name_IDs = ["*"]  # licences are in there
    subsetter = Subsetter(options)
    subsetter.populate(text=characters)
    subsetter.subset(font)
    return _saved(font)


@plugin.method(idempotent=True)
def pack(sfnt: bytes) -> bytes:
    """A WOFF2 file of an sfnt file."""
    font = _open(sfnt)
    font.flavor = "woff2"
    return _saved(font)


def _open(data: bytes) -> TTFont:
    # Without the time of day: the same font gives the same bytes, whenever it is built.
    return TTFont(io.BytesIO(data), recalcTimestamp=False)


def _saved(font: TTFont) -> bytes:
    file = io.BytesIO()
    font.save(file)
    font.close()
    return file.getvalue()
