"""Thumbnails of many images by two processes, raw pixels passed through shared memory.

    python examples/image_pipeline.py FOLDER OUT         # needs: pip install Pillow numpy

This file is both sides: the functions below are the plugin, `main` is the host that spawns it.
"""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import shmhub

plugin = shmhub.Plugin("image")
REPLICAS = 2
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@plugin.method(idempotent=True)  # may run twice: if a replica dies of it, another one tries
def decode(data: memoryview) -> NDArray[np.uint8]:
    """Pixels, shape (height, width, 3)."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@plugin.method(idempotent=True)
def shrink(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The same, ``side`` pixels wide or high at most."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    return np.asarray(image)


@plugin.method(idempotent=True)
def encode(pixels: NDArray[np.uint8]) -> bytes:
    """A WebP file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP")
    return file.getvalue()


def main(folder: Path, out: Path) -> int:
    """Writes a thumbnail of each image of ``folder`` into ``out``; how many failed."""
    out.mkdir(parents=True, exist_ok=True)
    with shmhub.PluginHost() as host, ThreadPoolExecutor(REPLICAS) as threads:
        # A file is a target; it does not run as __main__ over there.
        image = host.spawn(__file__, name="image", replicas=REPLICAS)

        def one(path: Path) -> str | None:
            try:
                pixels = image.decode(path.read_bytes())  # a view of shared memory: no copy
                small = image.shrink(pixels, 256)  # by whichever replica is free
                (out / f"{path.stem}.webp").write_bytes(image.encode(small))
            except (OSError, shmhub.ShmhubError) as error:  # no image, or a replica died of it
                return f"{path.name}: {error}"
            print(
                f"{path.name}: {pixels.shape[1]}x{pixels.shape[0]}, {pixels.nbytes} bytes of pixels"
            )
            return None

        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        failures = [failure for failure in threads.map(one, paths) if failure]
    for failure in failures:
        print(failure, file=sys.stderr)
    return len(failures)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"use: {sys.argv[0]} FOLDER OUT")
    sys.exit(1 if main(Path(sys.argv[1]), Path(sys.argv[2])) else 0)
