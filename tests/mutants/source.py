"""C source as the lister sees it: no comments, only what this platform compiles, functions found.

Positions stay those of the file, so that what is found here can be replaced there.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"

# What the compiler defines where the mutants run (Linux on x86-64, no sanitizer, no scheduler).
# What is not named here counts as defined: it is a feature of the system's headers.
UNDEFINED = frozenset({"HUB_INTERLEAVE", "HUB_TSAN", "HUB_TEST_WRAP", "__SANITIZE_THREAD__"})
UNDEFINED_TOO = frozenset({"__aarch64__", "__i386__"})
COMMENTS = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])'", re.DOTALL)
NAME_BEFORE = re.compile(r"([A-Za-z_]\w*)\s*\Z")


def normalised(text: str) -> str:
    return " ".join(text.split())


def closing(text: str, start: int) -> int:
    """Position of the bracket that closes the one at `start`."""
    pairs = {"(": ")", "{": "}", "[": "]"}
    wanted, opened, depth = pairs[text[start]], text[start], 0
    for at in range(start, len(text)):
        if text[at] == opened:
            depth += 1
        elif text[at] == wanted:
            depth -= 1
            if depth == 0:
                return at
    raise ValueError(f"nothing closes {text[start : start + 40]!r}")


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _without_comments(text: str) -> tuple[str, str]:
    """Without comments; and without what is in quotes, too, for looking at the structure."""

    def comment(match: re.Match[str]) -> str:
        return _blank(match[0]) if match[0].startswith("/") else match[0]

    def quoted(match: re.Match[str]) -> str:
        return match[0][0] + _blank(match[0][1:-1]) + match[0][-1]

    plain = COMMENTS.sub(comment, text)
    return plain, COMMENTS.sub(quoted, plain)


def _defined(condition: str) -> bool:
    """`#if`: a name is true where it is defined; only !, && and || are understood."""
    words = re.sub(r"defined\s*\(\s*(\w+)\s*\)|defined\s+(\w+)", r"\1\2", condition)
    words = re.sub(r"__has_feature\(\w+\)|__has_feature", "0", words)
    words = re.sub(r"!(?!=)", " not ", words).replace("&&", " and ").replace("||", " or ")

    def known(match: re.Match[str]) -> str:
        word = match[0]
        if word in ("and", "or", "not"):
            return word
        return str(word not in UNDEFINED | UNDEFINED_TOO)

    words = re.sub(r"[A-Za-z_]\w*", known, words)
    return bool(eval(words, {"__builtins__": {}}))  # three operators and two constants


def _compiled_only(text: str) -> str:
    """Directives, and what is under a false one, blanked."""
    result, stack = [], []  # of the branch: compiled, an earlier one was
    lines = iter(text.splitlines(keepends=True))
    for line in lines:
        directive = re.match(r"\s*#\s*(\w+)\s*(.*)", line)
        if not directive:
            result.append(line if all(now for now, _ in stack) else _blank(line))
            continue
        whole = line
        while whole.rstrip("\n").endswith("\\"):
            whole += next(lines)
        result.append(_blank(whole))
        word, rest = directive[1], directive[2].strip()
        if word in ("if", "ifdef", "ifndef"):
            holds = _defined(rest)
            if word == "ifndef":  # include guards, and constants that old headers lack
                holds = True
            stack.append((holds, holds))
        elif word == "elif":
            _, before = stack.pop()
            holds = not before and _defined(rest)
            stack.append((holds, before or holds))
        elif word == "else":
            _, before = stack.pop()
            stack.append((not before, True))
        elif word == "endif":
            stack.pop()
    return "".join(result)


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    start: int  # of its body's brace
    end: int


class Source:
    """One file: its text, what of it is compiled, and its functions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.text = path.read_text("utf-8")
        plain, structure = _without_comments(self.text)
        self.plain = _compiled_only(plain)
        # A directive in one is one in the other: the same lines go.
        self.structure = _compiled_only(structure)
        self.functions = self._find_functions()
        self._starts = [one.start for one in self.functions]

    def _find_functions(self) -> list[Function]:
        found, at, text = [], 0, self.structure
        while (at := text.find("{", at)) >= 0:
            end = closing(text, at)
            head = text[:at].rstrip()
            if head.endswith(")"):
                name = self._name_of(head)
                if name:
                    found.append(Function(name, at, end))
            at = end + 1
        return found

    @staticmethod
    def _name_of(head: str) -> str | None:
        depth = 0
        for at in range(len(head) - 1, -1, -1):
            if head[at] == ")":
                depth += 1
            elif head[at] == "(":
                depth -= 1
                if depth == 0:
                    match = NAME_BEFORE.search(head[:at])
                    return match[1] if match else None
        return None

    def function_at(self, position: int) -> Function | None:
        number = bisect_right(self._starts, position) - 1
        if number < 0 or self.functions[number].end < position:
            return None
        return self.functions[number]


def sources() -> list[Source]:
    return [Source(path) for path in sorted([*CSRC.glob("*.c"), *CSRC.glob("*.h")])]
