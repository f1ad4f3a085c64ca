"""Images on raw pixels: decode, resize, encode (Pillow, numpy).

Pixels are arrays of bytes, shape (height, width, 3) for RGB or (height, width, 4) with alpha.
An array that arrives is only read: it may be a view of memory that somebody else owns.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

import shmhub

__all__ = ["decode", "encode", "plugin", "resize"]

plugin = shmhub.Plugin("image")

Pixels = NDArray[np.uint8]


@plugin.method(idempotent=True)
def decode(data: bytes) -> Pixels:
    """The pixels of an image file, upright; of an animation the first frame.

    ``ValueError`` if it is none, ``OSError`` if it is damaged.
    """
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise ValueError("not an image of a known format") from None
    with image:
        upright = ImageOps.exif_transpose(image)
        return np.asarray(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))


@plugin.method(idempotent=True)
def resize(pixels: Pixels, width: int) -> Pixels:
    """The same picture ``width`` pixels wide."""
    rows, columns = pixels.shape[:2]
    height = max(1, round(rows * width / columns))
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0))


@plugin.method(idempotent=True)
def encode(pixels: Pixels, quality: int, effort: int) -> bytes:
    """A WebP file; ``quality`` 0 to 100, ``effort`` 0 (fast) to 6 (small)."""
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": quality, "method": effort}
    Image.fromarray(pixels).save(file, "WEBP", **options)
    return file.getvalue()
