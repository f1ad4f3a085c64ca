"""Pictures to measure with: what a camera might have taken, made from a seed.

Gradients, soft shapes and grain, so that decoding, scaling and packing them costs about what
photographs cost. The same seed gives the same files with the same version of Pillow.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["make_pictures"]


def make_pictures(folder: Path, number: int, megapixels: float, seed: int = 1) -> list[Path]:
    """``number`` JPEG files of about ``megapixels`` in ``folder``; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for index in range(number):
        path = folder / f"picture-{seed}-{megapixels:g}-{index:03}.jpg"
        if not path.exists():
            part = path.with_suffix(".part")
            Image.fromarray(_pixels(megapixels, (seed, index))).save(part, "JPEG", quality=90)
            part.rename(path)
        made.append(path)
    return made


def _pixels(megapixels: float, seed: tuple[int, int]) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    width = math.ceil(math.sqrt(megapixels * 1e6 * 3 / 2) / 2) * 2
    height = math.ceil(megapixels * 1e6 / width)
    picture = np.zeros((height, width, 3), np.float32)
    picture += _clouds(random, height, width, cells=3, strength=160)[..., None]
    for cells, strength in ((8, 60), (40, 25), (200, 12)):
        for channel in range(3):
            picture[..., channel] += _clouds(random, height, width, cells, strength)
    picture += random.normal(0, 2.5, (height, width, 1)).astype(np.float32)
    return np.clip(picture + 20, 0, 255).astype(np.uint8)


def _clouds(
    random: np.random.Generator, height: int, width: int, cells: int, strength: float
) -> NDArray[np.float32]:
    """Soft spots, ``cells`` of them across."""
    coarse = random.random((max(2, cells * 2 // 3), cells), np.float32) * strength
    soft = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(soft)
