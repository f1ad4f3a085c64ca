"""Make a style sheet smaller without changing what it means.

A tokenizer for CSS Syntax Level 3 and a writer that drops what no browser looks at: comments,
white space that separates nothing, the last semicolon of a block, zeros of fractions, doubled
digits of colours. What cannot be read with certainty (an unclosed string, brackets that do not
match) is returned as it came, since a minifier that guesses breaks pages.

Pure functions on bytes: nothing here knows of the hub.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

__all__ = ["minify"]

_ESCAPE: Final = r"\\(?:[0-9a-fA-F]{1,6}(?:\r\n|[ \n\r\t\f])?|[^\n\r\f0-9a-fA-F])"
_IDENT: Final = (
    rf"(?:--|-?(?:[A-Za-z_]|[^\x00-\x7f]|{_ESCAPE}))(?:[-A-Za-z0-9_]|[^\x00-\x7f]|{_ESCAPE})*"
)
_NUMBER: Final = r"[+-]?(?:[0-9]*\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?"

# The order matters where two could start alike: a CDC before an identifier, a url before a
# function, a number before the sign it starts with.
_TOKEN: Final = re.compile(
    "|".join(
        (
            r"(?P<space>[ \t\n\r\f]+)",
            r"(?P<comment>/\*[\s\S]*?(?:\*/|\Z))",
            r"(?P<string>\"(?:[^\"\\\n\r\f]|\\(?:\r\n|[\s\S]))*\"|'(?:[^'\\\n\r\f]|\\(?:\r\n|[\s\S]))*')",
            rf"(?P<url>[uU][rR][lL]\([ \t\n\r\f]*(?!['\" \t\n\r\f])"
            rf"(?:[^\"'()\\\x00-\x20\x7f]|{_ESCAPE})*[ \t\n\r\f]*\))",
            r"(?P<cdc>-->)",
            r"(?P<cdo><!--)",
            rf"(?P<number>{_NUMBER}(?:%|{_IDENT})?)",
            rf"(?P<function>{_IDENT}\()",
            rf"(?P<ident>{_IDENT})",
            rf"(?P<at>@{_IDENT})",
            rf"(?P<hash>\#(?:[-A-Za-z0-9_]|[^\x00-\x7f]|{_ESCAPE})+)",
            r"(?P<punct>[{}()\[\],:;])",
            r"(?P<delim>[^\\\"'\x00])",
        )
    )
)

_TRAILING_ZEROS: Final = re.compile(
    r"([+-]?)([0-9]*)\.([0-9]+)(%|[^0-9eE%].*|[eE](?![+-]?[0-9]).*)?\Z"
)
_PAIRED_HEX: Final = re.compile(r"#(?:([0-9a-fA-F])\1){3,4}\Z")
_HEX_ESCAPE: Final = re.compile(r"\\(?:([0-9a-fA-F]{1,6})(?:\r\n|[ \n\r\t\f])?|(.))", re.DOTALL)

_OLD_TOKENS: Final = frozenset({"~=", "|=", "^=", "$=", "*=", "||", "u+", "U+"})
_STRING_NEXT: Final = re.compile(r"[ \t\n\r\f]*[\"']")

_CLOSER: Final = {"(": ")", "[": "]", "{": "}"}
_CLOSERS: Final = frozenset(_CLOSER.values())

# How a token came after the one before it.
_TOUCHING: Final = 0
_COMMENTED: Final = 1  # only comments between: two tokens, but not two words
_SPACED: Final = 2

# Properties whose hash tokens need not be colours.
_NO_COLOURS: Final = frozenset({"filter", "-ms-filter"})
# At-rules whose plain parentheses hold `name: value`, never a selector.
_FEATURES: Final = frozenset({"@media", "@container", "@supports"})


class _Token(NamedTuple):
    kind: str
    text: str
    gap: int


class _Unclear(Exception):
    """The sheet cannot be read with certainty."""


def minify(data: bytes | bytearray | memoryview) -> bytes:
    """Return `data`, a style sheet in any ASCII-compatible encoding, made smaller.

    Bytes that are not UTF-8 go through untouched. Never raises for bad CSS: a sheet that cannot
    be read with certainty is returned unchanged.
    """
    raw = bytes(data)
    source = raw.decode("utf-8", "surrogateescape")
    mark, source = ("\ufeff", source[1:]) if source.startswith("\ufeff") else ("", source)
    try:
        small = mark + _Writer(source).write()
    except _Unclear:
        return raw
    return small.encode("utf-8", "surrogateescape")


def _tokenize(source: str) -> list[_Token]:
    """Split into tokens; white space and comments become the next token's `gap`."""
    tokens: list[_Token] = []
    gap = _TOUCHING
    position = 0
    for match in _TOKEN.finditer(source):
        if match.start() != position:
            raise _Unclear(f"no token at {position}")
        position = match.end()
        kind, text = match.lastgroup or "", match.group()
        if kind == "space":
            gap = _SPACED
        elif kind == "comment":
            gap = max(gap, _COMMENTED)
            if text.startswith("/*!"):
                if not text.endswith("*/"):
                    raise _Unclear("unclosed comment")
                tokens.append(_Token("licence", text, gap))
        else:
            if kind == "function":
                _refuse_bad_url(source, text, position)
            tokens.append(_Token(kind, text, gap))
            gap = _TOUCHING
    if position != len(source):
        raise _Unclear(f"no token at {position}")
    return tokens


def _refuse_bad_url(source: str, function: str, end: int) -> None:
    """Refuse a `url(` that takes its content raw, but is no url token: browsers skip all of it.

    Only a string makes it a function. Its name can be written with escapes, too: that is too
    rare to handle and too bad to break.
    """
    name = _HEX_ESCAPE.sub(_unescaped, function) if "\\" in function else function
    if name.lower() == "url(" and (name != function or not _STRING_NEXT.match(source, end)):
        raise _Unclear("bad url")


def _unescaped(match: re.Match[str]) -> str:
    if match[1] is None:
        return match[2]
    code = int(match[1], 16)
    return chr(code) if 0 < code < 0x110000 else "\ufffd"


@lru_cache(maxsize=8192)
def _fuse(left: str, right: str) -> bool:
    """Would these two tokens, written without anything between them, be read as something else?

    By older readers, too, which know the operators of CSS 2.1 and ranges such as `u+a`.
    """
    if left + right in _OLD_TOKENS:
        return True
    matches = list(_TOKEN.finditer(left + right))
    return [match.group() for match in matches] != [left, right]


def _opener(token: _Token) -> str | None:
    """The bracket a token opens: functions open a parenthesis, too."""
    if token.kind == "function":
        return "("
    return token.text if token.kind == "punct" and token.text in _CLOSER else None


class _Writer:
    """Writes the tokens of one sheet as few characters.

    Works statement by statement, without recursion: `depth` counts open blocks. `pending` is the
    semicolon that the last statement needs if anything but `}` follows it.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens = _tokenize(source)
        self.position = 0
        self.depth = 0
        self.pending = ""
        self.out: list[str] = []

    def write(self) -> str:
        while self.position < len(self.tokens):
            token = self.tokens[self.position]
            if token.kind == "licence":
                self.position += 1
                self.put(token.text)
            elif token.text == "}" and token.kind == "punct":
                self.close_block()
            elif self.depth == 0 and token.kind in ("cdo", "cdc"):
                self.position += 1  # HTML's comment marks mean nothing between rules
            elif self.depth and token.kind == "punct" and token.text == ";":
                self.position += 1
            elif token.kind == "at":
                self.at_rule()
            elif self.is_custom_property():
                self.custom_property()
            else:
                self.rule_or_declaration()
        if self.depth:
            raise _Unclear("unclosed block")
        self.out.append(self.pending)
        return "".join(self.out)

    def put(self, text: str) -> None:
        self.out.append(self.pending)
        self.pending = ""
        self.out.append(text)

    def open_block(self) -> None:
        self.position += 1
        self.depth += 1
        self.out.append("{")

    def close_block(self) -> None:
        if not self.depth:
            raise _Unclear("closing brace without a block")
        self.position += 1
        self.depth -= 1
        self.pending = ""
        self.out.append("}")

    def take_until(self, ends: str) -> tuple[list[_Token], str]:
        """Tokens up to one of `ends` outside brackets, and that end ("" at the end of the sheet).

        The end itself is not taken. Licence comments inside a statement are dropped.
        """
        expected: list[str] = []
        taken: list[_Token] = []
        gap = _TOUCHING
        while self.position < len(self.tokens):
            token = self.tokens[self.position]
            if token.kind == "licence":
                gap = max(gap, token.gap)
                self.position += 1
                continue
            if token.kind == "punct" and not expected and token.text in ends:
                return taken, token.text
            opener = _opener(token)
            if opener:
                expected.append(_CLOSER[opener])
            elif _is_one_of(token, ")]}") and (not expected or expected.pop() != token.text):
                raise _Unclear("brackets that do not match")
            taken.append(token._replace(gap=max(gap, token.gap)) if gap else token)
            gap = _TOUCHING
            self.position += 1
        if expected:
            raise _Unclear("unclosed bracket")
        return taken, ""

    def at_rule(self) -> None:
        first = self.tokens[self.position]
        is_charset = self.depth == 0 and first.text.lower() == "@charset"
        ahead = self.position
        tokens, end = self.take_until("{;}" if self.depth else "{;")
        if is_charset and end != "{":
            # It counts as the very first bytes only and is spelled in one way only.
            if ahead == 0 and end == ";" and self.source.startswith('@charset "'):
                self.put(_render_raw(tokens))
                self.pending = ";"
        else:
            self.put(_render_prelude(tokens))
            self.pending = ";" if end == ";" or (self.depth and end == "}") else ""
        if end == "{":
            self.open_block()
        elif end == ";":
            self.position += 1

    def is_custom_property(self) -> bool:
        if not self.depth or self.position + 1 >= len(self.tokens):
            return False
        name, colon = self.tokens[self.position : self.position + 2]
        return name.kind == "ident" and name.text.startswith("--") and colon.text == ":"

    def custom_property(self) -> None:
        """Its value may be anything and is kept token by token: scripts can read it."""
        name = self.tokens[self.position].text
        self.position += 2
        tokens, _ = self.take_until(";}")
        after = self.tokens[self.position] if self.position < len(self.tokens) else None
        if tokens:
            value = _render_raw(tokens)
        else:
            value = " " if after is not None and after.gap == _SPACED else ""
        self.put(f"{name}:{value}")
        self.pending = ";"

    def rule_or_declaration(self) -> None:
        # Between rules a semicolon ends nothing: it spoils the selector that it is part of.
        tokens, end = self.take_until("{;}" if self.depth else "{}")
        if end == "{":
            self.put(_render_selector(tokens))
            self.open_block()
        elif self.depth:
            self.put(_render_declaration(tokens))
            self.pending = ";"
        else:
            raise _Unclear("text outside any rule")


def _join(left: _Token, right: _Token, droppable: bool) -> str:
    """What must stand between two tokens that are to be written one after the other."""
    if right.gap == _TOUCHING:
        return ""
    if right.gap == _SPACED and not droppable:
        return " "
    apart = right.gap == _COMMENTED and left.text == "+"  # there may be a `u` before it
    if not apart and not _fuse(left.text, right.text):
        return ""
    return " " if right.gap == _SPACED else "/**/"


def _render_raw(tokens: list[_Token]) -> str:
    out = [tokens[0].text] if tokens else []
    for left, right in pairwise(tokens):
        out += (_join(left, right, droppable=False), right.text)
    return "".join(out)


def _render_selector(tokens: list[_Token]) -> str:
    """White space is the descendant combinator here: it goes only beside another combinator."""
    out: list[str] = []
    brackets: list[str] = []
    left: _Token | None = None
    for token in tokens:
        if token.kind == "punct" and token.text in _CLOSERS:
            brackets.pop()
        if left is not None:
            out.append(_join(left, token, _loose_selector(left, token, brackets)))
        out.append(token.text)
        opener = _opener(token)
        if opener:
            brackets.append(opener)
        left = token
    return "".join(out)


def _loose_selector(left: _Token, right: _Token, brackets: list[str]) -> bool:
    loose = ",>~"
    if not brackets:
        loose += "+"  # inside brackets it may belong to an+b, where white space decides
    elif brackets[-1] == "[":
        loose += "="
    return (
        left.text in loose
        or right.text in loose
        or left.kind == "function"
        or left.text in ("(", "[")
        or right.text in (")", "]")
    )


def _render_prelude(tokens: list[_Token]) -> str:
    """An at-rule up to its block or semicolon."""
    features = tokens[0].text.lower() in _FEATURES
    out: list[str] = []
    brackets: list[str] = []
    left: _Token | None = None
    for token in tokens:
        if token.kind == "punct" and token.text in _CLOSERS:
            brackets.pop()
        if left is not None:
            in_feature = features and bool(brackets) and brackets[-1] == "("
            loose = (
                _is_one_of(left, "([,")
                or left.kind == "function"
                or _is_one_of(token, ")],")
                or (in_feature and (left.text == ":" or token.text == ":"))
            )
            out.append(_join(left, token, loose))
        out.append(_trim_url(token) if token.kind == "url" else token.text)
        if token.kind == "function":
            brackets.append("function")
        elif _opener(token):
            brackets.append(token.text)
        left = token
    return "".join(out)


def _is_one_of(token: _Token, characters: str) -> bool:
    """Is this a single character token, one of `characters`? (A string may hold the same text.)"""
    return token.kind in ("punct", "delim") and token.text in characters


def _render_declaration(tokens: list[_Token]) -> str:
    """`name: value`; a name may carry a hack in front (`*zoom`). No colon: left alone."""
    colon = next((i for i, token in enumerate(tokens[:3]) if token.text == ":"), 0)
    if not colon:
        return _render_raw(tokens)
    name = _render_raw(tokens[:colon])
    return f"{name}:{_render_value(tokens[colon + 1 :], name.lower() not in _NO_COLOURS)}"


def _render_value(tokens: list[_Token], colours: bool) -> str:
    out: list[str] = []
    left: _Token | None = None
    for token in tokens:
        if token.kind == "number":
            token = token._replace(text=_shorten_number(token.text))
        elif token.kind == "hash" and colours and _PAIRED_HEX.match(token.text):
            token = token._replace(text="#" + token.text[1::2])
        elif token.kind == "url":
            token = token._replace(text=_trim_url(token))
        if left is not None:
            # White space around + and - decides what they mean in calc(): it stays.
            loose = (
                _is_one_of(left, ",([!/*") or left.kind == "function" or _is_one_of(token, ",)]!/*")
            )
            out.append(_join(left, token, loose))
        out.append(token.text)
        left = token
    return "".join(out)


def _shorten_number(text: str) -> str:
    """`0.50em` -> `.5em`. One digit after the point stays: `1.0` is no integer, `1` is."""
    match = _TRAILING_ZEROS.match(text)
    if match is None:
        return text
    sign, whole, fraction, unit = match.groups(default="")
    return f"{sign}{whole.lstrip('0')}.{fraction.rstrip('0') or '0'}{unit}"


def _trim_url(token: _Token) -> str:
    inner = token.text[4:-1]
    trimmed = inner.strip(" \t\n\r\f")
    if inner != trimmed and "\\" in inner:
        return token.text  # the white space may end an escape
    return f"{token.text[:4]}{trimmed})"
