"""`doctor`: what it makes of limits and features, with made-up file systems and real limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmhub import _doctor, _doctor_probes
from shmhub._doctor_probes import Check

MIB = 1 << 20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def levels(checks: Iterator[Check]) -> list[str]:
    return [check.level for check in checks]


def test_every_probe_has_a_line_here() -> None:
    """On the machine that runs the tests hubs can be made."""
    checks = list(_doctor.examine())
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert {"python", "memory", "/dev/shm", "cores", "memfd_create", "seals"} <= set(names)
    assert {"pidfd_open", "epoll, eventfd", "a hub", "a plugin"} <= set(names)
    assert [check for check in checks if check.level == "FAIL"] == []
    assert all(check.advice for check in checks if check.level != "OK")


@pytest.mark.parametrize(
    ("files", "level", "says"),
    [
        ({}, "OK", "RAM"),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/memory.max": "max",
                "sys/fs/cgroup/a/memory.max": str(300 * MIB),
                "sys/fs/cgroup/a/memory.current": str(10 * MIB),
            },
            "WARN",
            "limit 300 MiB, 10 MiB of it used; a hub takes 75 MiB",
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/x\n4:memory:/y\n0::/",
                "sys/fs/cgroup/memory/y/memory.limit_in_bytes": str(700 * MIB),
                "sys/fs/cgroup/memory/y/memory.usage_in_bytes": str(695 * MIB),
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            },
            "WARN",
            "limit 700 MiB, 695 MiB",
        ),
        (
            {
                "proc/self/cgroup": "0::/",
                "sys/fs/cgroup/memory.max": str(900 * MIB),
                "sys/fs/cgroup/memory.current": str(5 * MIB),
            },
            "OK",
            "takes 225 MiB",
        ),
    ],
    ids=["none", "v2, from above", "v1, nearly full", "v2, enough"],
)
def test_memory_limits(tmp_path: Path, files: dict[str, str], level: str, says: str) -> None:
    [check] = _doctor_probes.memory(write(tmp_path, files))
    assert (check.level, says in check.found) == (level, True), check
    assert bool(check.advice) == (level != "OK")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "150000 100000"}, "time of 1.5"),
        (
            {
                "proc/self/cgroup": "1:cpu,cpuacct:/a",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
            },
            "time of 0.5",
        ),
    ],
    ids=["v2", "v1"],
)
def test_a_quota_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], says: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    [check] = _doctor_probes.cores(write(tmp_path, files))
    assert check.level == "WARN"
    assert says in check.found
    assert "spin=0" in check.advice


def test_cores_without_a_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert levels(_doctor_probes.cores(root)) == ["OK"]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert levels(_doctor_probes.cores(root)) == ["WARN"]


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("always within_size advise [never] deny force", "OK"),
        ("[always] within_size advise never deny force", "WARN"),
        ("always within_size [advise] never deny force", "OK"),
    ],
)
def test_huge_pages(tmp_path: Path, text: str, level: str) -> None:
    root = write(tmp_path, {"sys/kernel/mm/transparent_hugepage/shmem_enabled": text})
    assert levels(_doctor_probes.huge_pages(root)) == [level]
    assert levels(_doctor_probes.huge_pages(tmp_path / "nothing")) == ["OK"]


def test_a_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_doctor_probes, "SHM", "/nowhere/shm")
    [check] = _doctor_probes.shared_memory_folder()
    assert (check.level, "anonymous" in check.advice) == ("WARN", True)
    [check] = _doctor_probes.named_memory()
    assert (check.level, "ENOENT" in check.found) == ("WARN", True)


def test_what_the_kernel_refuses_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(os, "eventfd", refuse)
    for probe in (_doctor_probes.process_handles, _doctor_probes.anonymous_memory):
        [check] = probe()
        assert (check.level, "EPERM" in check.found) == ("FAIL", True)
        assert "seccomp" in check.advice
    assert "FAIL" in levels(_doctor_probes.sleeping())


def test_a_probe_that_breaks_does_not_break_the_others() -> None:
    def broken() -> Iterator[Check]:
        raise ZeroDivisionError("so it goes")

    checks = list(_doctor.examine([broken, _doctor_probes.huge_pages]))
    assert checks[0].level == "WARN"
    assert "so it goes" in checks[0].found
    assert checks[1].name == "huge pages"


# ---- the command -------------------------------------------------------------------------------


def doctor(*arguments: str, limits: str = "pass") -> subprocess.CompletedProcess[str]:
    code = f"import resource, runpy, sys; {limits}; sys.argv[0] = 'shmhub'\n"
    code += "runpy.run_module('shmhub', run_name='__main__', alter_sys=True)"
    return subprocess.run(
        [sys.executable, "-c", code, "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_and_its_json() -> None:
    outcome = doctor()
    assert outcome.returncode in (0, 1), outcome.stdout + outcome.stderr
    assert "a plugin" in outcome.stdout
    found = json.loads(doctor("--json").stdout)
    assert found["status"] == outcome.returncode
    assert {"name", "level", "found", "advice"} == set(found["checks"][0])


@pytest.mark.parametrize(
    ("limits", "status", "says"),
    [
        ("resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))", 2, "RLIMIT_FSIZE"),
        ("resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))", 1, "ulimit -v"),
        ("resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))", 1, "ulimit -n"),
    ],
    ids=["file size", "address space", "descriptors"],
)
def test_limits_of_the_process_are_found(limits: str, status: int, says: str) -> None:
    outcome = doctor(limits=limits)
    assert outcome.returncode == status, outcome.stdout + outcome.stderr
    assert says in outcome.stdout
