"""A site of a few small files, one of each kind that the site example builds."""

from __future__ import annotations

import io
import random
from pathlib import Path

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from PIL import Image

README = """# Small site

It has *two* pages: this one and the [guide](guide/start.md#what-it-shows).

![noise](pictures/noise.jpg) ![clear](pictures/clear.png "with alpha")
"""
START = """# The `guide`

## What it shows

```python
def answer(question: str) -> int:
    return 42
```

| a | b |
|---|---|
| 1 | ~~2~~ |

Back [home](../README.md), to [notes](../notes.txt); ![noise](../pictures/noise.jpg)
"""
STYLE = """/* a comment that goes */
h1::before { content: "\\2192 "; color: #ff0000; }
@font-face { font-family: "Small"; src: url(fonts/small.woff2); }
"""
PLACES = frozenset(
    {
        ".site.json",
        "_site/site.css",
        "fonts/small.woff2",
        "guide/start.html",
        "index.html",
        "notes.txt",
        "pictures/clear.png",
        "pictures/clear.png.20.webp",
        "pictures/clear.png.40.webp",
        "pictures/clear.png.48.webp",
        "pictures/noise.jpg",
        "pictures/noise.jpg.20.webp",
        "pictures/noise.jpg.40.webp",
        "pictures/noise.jpg.60.webp",
        "style.css",
    }
)
"""What is made of it with `WIDTHS`."""
WIDTHS = "20,40,60"


def write(folder: Path) -> Path:
    """The sources, in ``folder``."""
    for name in ("guide", "pictures", "fonts"):
        (folder / name).mkdir(parents=True)
    (folder / "README.md").write_text(README, "utf-8")
    (folder / "guide/start.md").write_text(START, "utf-8")
    (folder / "style.css").write_text(STYLE, "utf-8")
    (folder / "notes.txt").write_text("as it is\n", "utf-8")
    (folder / "_draft.md").write_text("# Not yet\n", "utf-8")
    noise = random.Random(5).randbytes(90 * 70 * 3)
    Image.frombytes("RGB", (90, 70), noise).save(folder / "pictures/noise.jpg", quality=90)
    Image.new("RGBA", (48, 30), (200, 30, 60, 100)).save(folder / "pictures/clear.png")
    (folder / "fonts/small.woff2").write_bytes(font())
    return folder


def font() -> bytes:
    """A WOFF2 font: squares for the printable ASCII characters, an arrow and an alpha."""
    codes = [*range(0x20, 0x7F), 0x2192, 0x3B1]
    names = {code: f"uni{code:04X}" for code in codes}
    glyphs = {}
    for position, name in enumerate([".notdef", *names.values()]):
        pen = TTGlyphPen(None)
        pen.moveTo((50, 0))
        for point in ((50, 500 + position), (450, 500 + position), (450, 0)):
            pen.lineTo(point)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap(names)
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (500, 50)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Small", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.font.flavor = "woff2"
    file = io.BytesIO()
    builder.save(file)
    return file.getvalue()


def characters(woff2: bytes) -> set[str]:
    """Those that a font has a glyph for."""
    with TTFont(io.BytesIO(woff2)) as opened:
        return {chr(code) for code in opened.getBestCmap()}
