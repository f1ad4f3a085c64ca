"""Runs a test program that may hang, run wild or leave things behind, and clears up after it."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

TIMED_OUT = 124
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0",
    "TSAN_OPTIONS": "halt_on_error=1",
}


def no_core_dumps() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _members(session: int) -> list[int]:
    """Processes of a session, however they were orphaned and whatever group they made."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            after_name = Path(entry.path, "stat").read_text("utf-8", "replace").rpartition(")")[2]
            fields = after_name.split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], 10)
        finally:
            os.close(pidfd)


def _end(session: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)
    for _ in range(100):  # who forks faster than it is killed is met again
        left = _members(session)
        if not left:
            return
        for pid in left:
            _kill(pid)


def run(
    program: Path, limit: float, environment: dict[str, str] | None = None
) -> tuple[int, float]:
    """Exit status (TIMED_OUT: killed at its limit) and seconds; nothing of it is left."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="shmhub-mutant-", dir=parent))
    own = {"SHMHUB_TEST_FOLDER": str(folder)}
    began = time.monotonic()
    process = subprocess.Popen(
        [program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | ENVIRONMENT | own | (environment or {}),
    )
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        status = TIMED_OUT
    finally:
        _end(process.pid)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    return status, time.monotonic() - began
