"""What a plugin's process may use, checked on the host's side and made plain for the other.

Putting the limits on is `_exec.apply_limits`, in the new process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Rlimits", "plain_limits"]

Rlimits = Mapping[str, int | tuple[int, int]]


def plain_limits(
    rlimits: Rlimits | None = None, nice: int | None = None, cpus: Iterable[int] | None = None
) -> dict[str, Any]:
    """Check limits and make them plain data.

    Args:
        rlimits: by name, with or without "RLIMIT_" ("data", "nofile", "RLIMIT_CPU"): one number
            for both, or (soft, hard), in the units of `setrlimit`; -1 is no limit. For memory take
            "data", not "as": the hub's mapping counts as address space, used or not.
        nice: niceness, -20 to 19.
        cpus: the processors that it may run on.

    Raises:
        ValueError: an unknown name or a value out of range; the message says which.
    """
    plain: dict[str, Any] = {}
    if rlimits:
        plain["rlimits"] = [_rlimit(name, value) for name, value in rlimits.items()]
    if nice is not None:
        if not isinstance(nice, int) or not -20 <= nice <= 19:
            raise ValueError(f"spawn: nice must be a whole number from -20 to 19, not {nice!r}")
        plain["nice"] = nice
    if cpus is not None:
        wanted = sorted(set(cpus))
        usable = os.sched_getaffinity(0)
        if not wanted or not set(wanted) <= usable:
            raise ValueError(
                f"spawn: cpus must be some of the processors that this process may use "
                f"{sorted(usable)}, not {wanted}"
            )
        plain["cpus"] = wanted
    return plain


def _rlimit(name: str, value: int | tuple[int, int]) -> tuple[int, int, int]:
    import resource

    full = name.upper() if name.upper().startswith("RLIMIT_") else f"RLIMIT_{name.upper()}"
    number = getattr(resource, full, None)
    if number is None:
        known = sorted(one[7:].lower() for one in dir(resource) if one.startswith("RLIMIT_"))
        raise ValueError(f"spawn: there is no limit {name!r} here; there are {', '.join(known)}")
    soft, hard = value if isinstance(value, tuple) else (value, value)
    current_hard = resource.getrlimit(number)[1]
    for one in (soft, hard):
        if not isinstance(one, int) or one < -1:
            raise ValueError(
                f"spawn: the limit {name!r} must be a number, or (soft, hard), from 0, or -1 for "
                f"none, not {value!r}"
            )
    if not isinstance(value, tuple) and current_hard != -1 and (hard == -1 or hard > current_hard):
        hard = current_hard  # a hard limit can only be lowered
        soft = hard if soft == -1 else min(soft, hard)
    return number, soft, hard
