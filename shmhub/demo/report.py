"""The table at the end of the demo, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shmhub.demo.jobs import HUB_CLASSES, MAX_BYTES
from shmhub.demo.tally import ClassTally, KindTally, Tally

__all__ = ["as_json", "render", "size_text"]

_SKIPPED_SHOWN = 8


def size_text(size: int) -> str:
    """`size` bytes with three digits or so."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return (
                f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
            )
        amount /= 1024
    return f"{amount:.1f} GiB"


def _class_name(slot_size: int) -> str:
    return f"{slot_size >> 20} MiB" if slot_size >= 1 << 20 else f"{slot_size >> 10} KiB"


def render(tally: Tally, left_behind: Sequence[str]) -> str:
    """Everything the demo has to say, in lines."""
    parts = [
        _table(_kind_rows(tally)),
        _table(_class_rows(tally)),
        "\n".join(_facts(tally, left_behind)),
    ]
    return "\n\n".join(parts) + "\n"


def _kind_rows(tally: Tally) -> list[list[str]]:
    rows = [["plugin", "files", "refused", "in", "out", "saved", "time over hub", "in-process"]]
    total = KindTally()
    for kind, one in sorted(tally.kinds.items()):
        rows.append(_kind_row(kind.label, one))
        total.files += one.files
        total.refused += one.refused
        total.bytes_in += one.bytes_in
        total.bytes_out += one.bytes_out
    total.seconds, total.seconds_here = tally.seconds, tally.seconds_here
    rows.append(_kind_row("together", total))
    return rows


def _kind_row(name: str, one: KindTally) -> list[str]:
    saved = 100 * (1 - one.bytes_out / one.bytes_in) if one.bytes_in else 0.0
    return [
        name,
        str(one.files),
        str(one.refused),
        size_text(one.bytes_in),
        size_text(one.bytes_out),
        f"{saved:.1f} %",
        f"{one.seconds:.2f} s",
        f"{one.seconds_here:.2f} s",
    ]


def _class_rows(tally: Tally) -> list[list[str]]:
    rows = [["messages in", "to plugins", "from plugins", "slots ever used"]]
    rows.append(["the ring", *_counts(tally.inline), ""])
    for index, (slot_size, _, _) in enumerate(HUB_CLASSES):
        used = tally.high_water[index] if index < len(tally.high_water) else 0
        rows.append([_class_name(slot_size), *_counts(tally.classes[index]), str(used)])
    return rows


def _counts(one: ClassTally) -> list[str]:
    return [str(one.sent), str(one.received)]


def _facts(tally: Tally, left_behind: Sequence[str]) -> list[str]:
    lines = [
        f"hub memory    {size_text(tally.memory_peak)} at most, of {size_text(MAX_BYTES)} allowed; "
        f"largest payload {size_text(tally.largest_payload)}",
        f"killed        {tally.kills} plugins with SIGKILL"
        + (f", {tally.kills_from_outside} more from outside" * bool(tally.kills_from_outside)),
        f"reclaimed     {tally.reclaimed} slots from the dead",
        f"retried       {tally.retried} jobs: {tally.never_received} never received, "
        f"{tally.may_have_run} that may have run",
        f"compared      {tally.equal} results are those of the same work in-process",
    ]
    lines += [f"skipped       {path}: {reason}" for path, reason in tally.skipped[:_SKIPPED_SHOWN]]
    more = len(tally.skipped) - _SKIPPED_SHOWN
    if more > 0:
        lines.append(f"              and {more} more")
    lines += [f"WRONG         {problem}" for problem in tally.problems]
    lines += [f"LEFT BEHIND   {thing}" for thing in left_behind]
    if not left_behind:
        lines.append("left behind   nothing: no process, thread, descriptor, mapping or file")
    lines.append("FAILED" if tally.problems or left_behind else "all right")
    return lines


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = (
            cell.ljust(width) if not index else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((first, *others)).rstrip())
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def as_json(tally: Tally, left_behind: Sequence[str]) -> dict[str, Any]:
    """The same as data."""
    return {
        "ok": not (tally.problems or left_behind),
        "plugins": {
            kind.label: {
                "files": one.files,
                "refused": one.refused,
                "bytes_in": one.bytes_in,
                "bytes_out": one.bytes_out,
                "no_smaller": one.kept,
                "seconds": round(one.seconds, 3),
                "seconds_in_process": round(one.seconds_here, 3),
            }
            for kind, one in sorted(tally.kinds.items())
        },
        "seconds": round(tally.seconds, 3),
        "seconds_in_process": round(tally.seconds_here, 3),
        "messages": {
            "ring": {"sent": tally.inline.sent, "received": tally.inline.received},
            **{
                str(slot_size): {"sent": one.sent, "received": one.received}
                for (slot_size, _, _), one in zip(HUB_CLASSES, tally.classes, strict=True)
            },
        },
        "largest_payload": tally.largest_payload,
        "hub_memory_peak": tally.memory_peak,
        "kills": tally.kills,
        "kills_from_outside": tally.kills_from_outside,
        "reclaimed": tally.reclaimed,
        "retried": {"never_received": tally.never_received, "may_have_run": tally.may_have_run},
        "equal": tally.equal,
        "skipped": [{"path": str(path), "reason": reason} for path, reason in tally.skipped],
        "problems": tally.problems,
        "left_behind": list(left_behind),
    }
