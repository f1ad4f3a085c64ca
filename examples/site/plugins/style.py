"""Style sheets: minify (rcssmin), and which characters they put on a page."""

from __future__ import annotations

import re

import rcssmin

import shmhub

__all__ = ["characters", "minify", "plugin"]

plugin = shmhub.Plugin("style")

_STRING = re.compile(r""""((?:[^"\\\n]|\\.)*)"|'((?:[^'\\\n]|\\.)*)'""")
_ESCAPE = re.compile(r"\\(?:([0-9a-fA-F]{1,6})\s?|(.))", re.DOTALL)


@plugin.method(idempotent=True)
def minify(css: str) -> str:
    """The same rules without comments and white space; ``ValueError`` for unbalanced braces."""
    _check_braces(css)
    return str(rcssmin.cssmin(css)) + "\n"


@plugin.method(idempotent=True)
def characters(css: str) -> str:
    """The characters in its strings, sorted: ``content: "\\2192"`` shows an arrow."""
    strings = ("".join(groups) for groups in _STRING.findall(css))
    return "".join(sorted({one for text in strings for one in _ESCAPE.sub(_unescaped, text)}))


def _unescaped(match: re.Match[str]) -> str:
    code, literal = match.groups()
    if code is None:
        return "" if literal == "\n" else str(literal)
    number = int(code, 16)
    printable = 0 < number <= 0x10FFFF and not 0xD800 <= number < 0xE000
    return chr(number) if printable else "\ufffd"


def _check_braces(css: str) -> None:
    """A sheet that is cut off makes every page look wrong, and no minifier says so."""
    bare = re.sub(r"/\*.*?\*/", lambda match: "\n" * match[0].count("\n"), css, flags=re.DOTALL)
    bare = _STRING.sub("", bare)
    depth = 0
    for number, line in enumerate(bare.splitlines(), 1):
        depth += line.count("{") - line.count("}")
        if depth < 0:
            raise ValueError(f"line {number}: a '}}' without its '{{'")
    if depth:
        raise ValueError(f"{depth} '{{' without '}}' at its end")
