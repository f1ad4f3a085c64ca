"""Where things lie in a site: which output a source becomes. Pure functions on "/"-paths."""

from __future__ import annotations

import posixpath

__all__ = ["OWN", "RECORD", "SHEET", "image_place", "kind_of", "page_place"]

OWN = "_site"
"""The folder of what is the builder's own; sources never begin with "_"."""
SHEET = f"{OWN}/site.css"
RECORD = ".site.json"
"""What a folder that was built has, and none of sources."""

_KINDS = {
    ".md": "page",
    ".css": "style",
    ".woff2": "font",
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"), "image"),
}


def kind_of(place: str) -> str:
    """page, style, image, font; or asset: copied as it is."""
    return _KINDS.get(posixpath.splitext(place)[1].lower(), "asset")


def page_place(source: str) -> str:
    """Where the page lies that is made of the Markdown file at ``source``."""
    folder, name = posixpath.split(source)
    stem = posixpath.splitext(name)[0]
    return posixpath.join(folder, ("index" if stem.lower() == "readme" else stem) + ".html")


def image_place(source: str, width: int) -> str:
    """``photo.jpg`` and ``photo.png`` may lie in one folder: the whole name is kept."""
    return f"{source}.{width}.webp"
