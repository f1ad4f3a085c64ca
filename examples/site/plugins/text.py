"""Markdown to HTML with highlighted code (markdown-it-py, Pygments).

A page refers to other files by their place in the site ("guide/start.md"), which is why each
function is told where its page lies.
"""

from __future__ import annotations

import functools
import itertools
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

import shmhub
from examples.site.places import page_place

__all__ = ["plugin", "render", "sheet"]

plugin = shmhub.Plugin("text")

Image = Sequence[tuple[str, int, int]]
"""What was made of an image: (place, width, height) each, narrowest first."""


@plugin.method(idempotent=True)
def render(source: str, page: str, images: Mapping[str, Image]) -> dict[str, Any]:
    """The body of the page whose source lies at ``page``.

    ``images`` has what was made of the images that it may show, by the place of their source.
    Returns ``html``, ``headings`` as (level, anchor, text) and ``links``: places in the site that
    it refers to, sorted.
    """
    markdown = _markdown()
    tokens = markdown.parse(source)
    headings = list(_anchor_headings(tokens))
    links: set[str] = set()
    for token in _inner(tokens):
        if token.type == "image":
            _point_to_webp(token, page, images, links)
        elif token.type == "link_open":
            _point_to_html(token, page, links)
    body = markdown.renderer.render(tokens, markdown.options, {})
    return {"html": body, "headings": headings, "links": sorted(links)}


@plugin.method(idempotent=True)
def sheet() -> str:
    """The style sheet for highlighted code, in light and in dark."""
    light, dark = _rules("friendly"), _rules("github-dark")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def _rules(style: str) -> str:
    formatter = HtmlFormatter(style=style, nobackground=True)
    return "\n".join(formatter.get_token_style_defs("pre code"))


@functools.cache
def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": True, "highlight": _highlighted})
    return markdown.enable(["table", "strikethrough"])


def _highlighted(code: str, language: str, attributes: str) -> str:
    """Coloured code, or nothing if the language is not known: then it is only escaped."""
    if not language:
        return ""
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return ""
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))


def _inner(tokens: Sequence[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        if token.children:
            yield from _inner(token.children)


def _anchor_headings(tokens: Sequence[Token]) -> Iterator[tuple[int, str, str]]:
    """Gives each heading an anchor, as GitHub names them; yields level, anchor and text."""
    seen: dict[str, int] = {}
    for token, inline in itertools.pairwise(tokens):
        if token.type != "heading_open":
            continue
        text = "".join(one.content for one in _inner([inline]) if one.type in _TEXTUAL)
        anchor = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-") or "section"
        times = seen[anchor] = seen.get(anchor, -1) + 1
        if times:
            anchor = f"{anchor}-{times}"
        token.attrSet("id", anchor)
        yield int(token.tag[1:]), anchor, text


_TEXTUAL = {"text", "code_inline"}


def _place(reference: str, page: str) -> tuple[str, str]:
    """The place in the site that ``reference`` means on ``page``, and its fragment; or ""."""
    parts = urlsplit(reference)
    if parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
        return "", ""
    joined = posixpath.join(posixpath.dirname(page), unquote(parts.path))
    return posixpath.normpath(joined), parts.fragment


def _relative(place: str, page: str) -> str:
    return quote(posixpath.relpath(place, posixpath.dirname(page_place(page)) or "."))


def _point_to_webp(token: Token, page: str, images: Mapping[str, Image], links: set[str]) -> None:
    place, _ = _place(str(token.attrGet("src") or ""), page)
    if not place:
        return
    links.add(place)
    made = images.get(place)
    if not made:
        return
    largest, width, height = made[-1]
    srcset = ", ".join(f"{_relative(place, page)} {wide}w" for place, wide, _ in made)
    token.attrSet("src", _relative(largest, page))
    token.attrSet("srcset", srcset)
    token.attrSet("sizes", f"(max-width: 50rem) 100vw, {min(width, 800)}px")
    token.attrSet("width", str(width))
    token.attrSet("height", str(height))
    token.attrSet("loading", "lazy")


def _point_to_html(token: Token, page: str, links: set[str]) -> None:
    place, fragment = _place(str(token.attrGet("href") or ""), page)
    if not place:
        return
    links.add(place)
    if place.endswith(".md") and not place.startswith("../"):
        address = _relative(page_place(place), page)
        token.attrSet("href", address + (f"#{fragment}" if fragment else ""))
