"""What there is to build: the files of a folder, their kinds and the hashes of their contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from examples.site.places import RECORD, kind_of

__all__ = ["Source", "digest", "find"]


@dataclass(frozen=True)
class Source:
    """One file of the folder; ``place`` is its path in it, with "/"."""

    place: str
    kind: str
    digest: str
    path: Path


def digest(*parts: object) -> str:
    """One hash of all ``parts``; no two different lists of parts share theirs."""
    state = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        state.update(b"%d:" % len(data))
        state.update(data)
    return state.hexdigest()


def find(folder: Path) -> tuple[list[Source], dict[str, str]]:
    """The files below ``folder`` in order, and why some cannot be read, by place.

    Skipped: what begins with "." or "_", folders that were built (the output may lie inside), and
    links that lead out of ``folder``. ``NotADirectoryError`` if ``folder`` is none.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder: name the one that holds the site")
    found: list[Source] = []
    unreadable: dict[str, str] = {}
    for path in _walk(folder.resolve()):
        place = path.relative_to(folder.resolve()).as_posix()
        try:
            place.encode("utf-8")
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, UnicodeError) as error:
            unreadable[place] = f"{type(error).__name__}: {error}"
        else:
            found.append(Source(place, kind_of(place), content, path))
    return found, unreadable


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        if RECORD in files:
            folders.clear()
            continue
        folders[:] = sorted(filter(_wanted, folders))
        for name in sorted(files):
            path = here / name
            if _wanted(name) and path.is_file() and path.resolve().is_relative_to(root):
                yield path


def _wanted(name: str) -> bool:
    return not name.startswith((".", "_"))
