"""Limits of a plugin's process, and a program that puts them on and becomes another one.

Run by path, in isolated mode, before plugins that are not started by our own bootstrap:
`python -I -S _exec.py '{"parent": 1, "limits": {}}' program arguments...`. So it imports nothing of
shmhub and little else. There is no `preexec_fn`: that is unsafe in a host with threads.
"""

import os
import sys
from typing import Any

__all__ = ["apply_limits"]

# As a shell says it.
NOT_FOUND, NOT_EXECUTABLE = 127, 126


def apply_limits(limits: "dict[str, Any]") -> None:
    """Put on what `plain_limits` has checked: `{"rlimits": [...], "nice": ..., "cpus": [...]}`."""
    # Older Pythons run this as well: nothing newer than 3.6.
    for number, soft, hard in limits.get("rlimits", ()):
        import resource

        resource.setrlimit(number, (soft, hard))
    if limits.get("nice") is not None:
        os.setpriority(os.PRIO_PROCESS, 0, limits["nice"])
    if limits.get("cpus"):
        os.sched_setaffinity(0, limits["cpus"])


def _die_with_parent(parent: int) -> None:
    """Has the kernel end this process with the thread that started it; exec keeps that."""
    import ctypes
    import signal

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was told
        os._exit(1)


def _main() -> int:
    import json

    options, program = json.loads(sys.argv[1]), sys.argv[2:]
    try:
        apply_limits(options["limits"])
    except (OSError, ValueError) as error:
        sys.stderr.write(f"cannot set the limits {options['limits']!r}: {error}\n")
        return NOT_EXECUTABLE
    _die_with_parent(options["parent"])
    try:
        os.execvp(program[0], program)
    except FileNotFoundError as error:
        sys.stderr.write(f"cannot start {program[0]}: {error}\n")
        return NOT_FOUND
    except OSError as error:
        sys.stderr.write(f"cannot start {program[0]}: {error}\n")
        return NOT_EXECUTABLE


if __name__ == "__main__":
    sys.exit(_main())
