"""The frame around each page: head, navigation, body. Pure functions on text."""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

__all__ = ["Frame", "Page", "characters", "title_of"]

_HEADING = re.compile(r"^#\s+(.+?)\s*#*\s*$", re.MULTILINE)
_MARKUP = re.compile(r"[`*]|\[([^\]]*)\]\([^)]*\)")
_TAG = re.compile(r"<[^>]*>")


@dataclass(frozen=True)
class Page:
    """A page as others refer to it."""

    place: str
    title: str


def title_of(source: str, place: str) -> str:
    """The first heading of a Markdown text, as plain text; else its file's name."""
    fenced = re.sub(r"^(```|~~~).*?^\1", "", source, flags=re.MULTILINE | re.DOTALL)
    found = _HEADING.search(fenced)
    if found:
        return _MARKUP.sub(lambda match: match[1] or "", found[1])
    return posixpath.splitext(posixpath.basename(place))[0].replace("-", " ")


def characters(page: str) -> str:
    """The characters that a page shows, sorted."""
    return "".join(sorted(set(html.unescape(_TAG.sub("", page)))))


@dataclass(frozen=True)
class Frame:
    """What all pages of a site share."""

    title: str
    pages: Sequence[Page]
    sheets: Sequence[str]

    def page(self, page: Page, body: Mapping[str, Any]) -> str:
        """The whole page; ``body`` is what ``text.render`` returned."""
        title = page.title if page.title == self.title else f"{page.title} · {self.title}"
        sheets = "".join(
            f'<link rel="stylesheet" href="{_href(sheet, page)}">\n' for sheet in self.sheets
        )
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(title)}</title>\n{sheets}</head>\n<body>\n"
            f"{self._header(page)}<main>\n{body['html']}</main>\n{_contents(body['headings'])}"
            "</body>\n</html>\n"
        )

    def index(self) -> Mapping[str, Any]:
        """The body of a first page, for a site that has none."""
        items = "".join(
            f'<li><a href="{quote(page.place)}">{html.escape(page.title)}</a></li>\n'
            for page in self.pages
            if page.place != "index.html"
        )
        body = f"<h1>{html.escape(self.title)}</h1>\n<ul>\n{items}</ul>\n"
        return {"html": body, "headings": []}

    def _header(self, page: Page) -> str:
        lines = [f'<header>\n<a class="home" href="{_href("index.html", page)}">']
        lines.append(f"{html.escape(self.title)}</a>\n<nav>\n")
        folder = ""
        for one in self.pages:
            if one.place == "index.html":
                continue
            if posixpath.dirname(one.place) != folder:
                folder = posixpath.dirname(one.place)
                lines.append(f"<b>{html.escape(folder)}</b>\n")
            here = ' aria-current="page"' if one == page else ""
            lines.append(f'<a href="{_href(one.place, page)}"{here}>{html.escape(one.title)}</a>\n')
        lines.append("</nav>\n</header>\n")
        return "".join(lines)


def _href(place: str, page: Page) -> str:
    """Relative, so that the site works in any folder of a server, and without one."""
    return quote(posixpath.relpath(place, posixpath.dirname(page.place) or "."))


def _contents(headings: Sequence[Sequence[Any]]) -> str:
    """Links to the sections of a page that has several."""
    sections = [(anchor, text) for level, anchor, text in headings if level == 2]
    if len(sections) < 3:
        return ""
    items = "".join(
        f'<a href="#{quote(anchor)}">{html.escape(text)}</a>\n' for anchor, text in sections
    )
    return f'<aside aria-label="On this page">\n{items}</aside>\n'
