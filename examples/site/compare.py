"""Whether two folders hold the same, byte for byte."""

from __future__ import annotations

from pathlib import Path

__all__ = ["differences"]


def differences(one: Path, other: Path) -> list[str]:
    """A line for each file that is not in both with the same contents; order of the names."""
    ours, theirs = _files(one), _files(other)
    lines = [f"{place}: only in {one}" for place in ours - theirs]
    lines += [f"{place}: only in {other}" for place in theirs - ours]
    for place in ours & theirs:
        if (one / place).read_bytes() != (other / place).read_bytes():
            lines.append(f"{place}: differs")
    return sorted(lines)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
