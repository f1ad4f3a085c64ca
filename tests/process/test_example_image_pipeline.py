"""The image pipeline example, as its head says to run it."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import ROOT

Image = pytest.importorskip("PIL.Image", reason="extra examples")

LIMIT = 120.0
pytestmark = pytest.mark.time_limit(2 * LIMIT)


def test_it_makes_thumbnails_and_names_what_is_no_image(tmp_path: Path) -> None:
    noise = random.Random(3)
    for number, size in enumerate([(900, 300), (40, 30), (1000, 1000)]):
        made = Image.frombytes("RGB", size, noise.randbytes(size[0] * size[1] * 3))
        made.save(tmp_path / f"picture{number}.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    done = subprocess.run(
        [sys.executable, "examples/image_pipeline.py", tmp_path, tmp_path / "out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 1, done.stderr
    assert "broken.jpg: " in done.stderr
    assert "cannot identify image file" in done.stderr
    assert "Traceback" not in done.stderr
    assert "picture2.png: 1000x1000, 3000000 bytes of pixels" in done.stdout
    sizes = {}
    for path in sorted((tmp_path / "out").iterdir()):
        with Image.open(path) as image:
            sizes[path.name] = (image.format, image.size)
    assert sizes == {
        "picture0.webp": ("WEBP", (256, 85)),
        "picture1.webp": ("WEBP", (40, 30)),
        "picture2.webp": ("WEBP", (256, 256)),
    }
