"""What `doctor` looks at: each probe tries or reads one thing of this machine and judges it.

Kernel features are tried, not looked up: a container or a seccomp filter may refuse what the
kernel's version promises. Limits are read where the kernel says them; `root` stands in for the
file system's root in tests.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import resource
import select
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from shmhub._errors import ShmhubError
from shmhub._gc import collect
from shmhub._host import HubHost
from shmhub._native import core
from shmhub._version import __version__

__all__ = [
    "PROBES",
    "Check",
    "Level",
    "Probe",
    "anonymous_memory",
    "cores",
    "default_hub",
    "descriptors",
    "huge_pages",
    "memory",
    "named_memory",
    "process_handles",
    "shared_memory_folder",
    "sleeping",
    "versions",
]

Level = Literal["OK", "WARN", "FAIL"]

MIB = 1 << 20
ROOT = Path("/")
SHM = "/dev/shm"
LEAST_MEMORY = 512 * MIB
LEAST_SHM = 128 * MIB
LEAST_DESCRIPTORS = 256
FEWEST_DESCRIPTORS = 32
NEARLY_FULL = 0.9
OLDEST_KERNEL = (5, 3)
PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98}
FUTEX_WAKE_PRIVATE = 129
START_TIMEOUT = 60.0


class Check(NamedTuple):
    """One line: what was looked at, how it is, and what to do about it."""

    name: str
    level: Level
    found: str
    advice: str = ""


Probe = Callable[[], Iterator[Check]]


def _size(count: int) -> str:
    return f"{count / MIB / 1024:.1f} GiB" if count >= 1024 * MIB else f"{count / MIB:.0f} MiB"


def _read(path: Path) -> str:
    """A short file of the kernel's, or nothing."""
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""


# ---- versions ----------------------------------------------------------------------------------


def versions() -> Iterator[Check]:
    """Python, shmhub, its compiled core, the kernel."""
    yield Check("python", "OK", f"{platform.python_implementation()} {platform.python_version()}")
    abi: Mapping[str, Any] = core.abi
    if abi:
        major, minor = abi["version"]
        yield Check("shmhub", "OK", f"{__version__}, hub format {major}.{minor}")
    else:
        yield Check(
            "shmhub",
            "FAIL",
            f"{__version__} without its compiled core",
            "install it on Linux, where there is a C compiler and Python's headers",
        )
    found = platform.release()
    numbers = tuple(int(part) for part in found.split("-")[0].split(".")[:2] if part.isdigit())
    if platform.system() != "Linux":
        yield Check("kernel", "FAIL", platform.system(), "hubs need Linux")
    elif numbers < OLDEST_KERNEL:
        yield Check("kernel", "FAIL", found, "hubs need Linux 5.3 or newer (pidfd_open)")
    else:
        yield Check("kernel", "OK", found)


# ---- memory ------------------------------------------------------------------------------------


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """This process's cgroup folders for a controller, from its own up; is it version 2?"""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, group = line.split(":", 2)
        unified = number == "0" and not controllers
        if not unified and controller not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("" if unified else controller)
        inside = Path(group.lstrip("/"))
        for folder in (inside, *inside.parents):
            yield base / folder, unified


def _memory_limit(root: Path) -> tuple[int, int] | None:
    """The lowest cgroup limit in bytes and what is used of it; None: no limit."""
    least: tuple[int, int] | None = None
    for folder, unified in _groups(root, "memory"):
        limit = _read(folder / ("memory.max" if unified else "memory.limit_in_bytes"))
        used = _read(folder / ("memory.current" if unified else "memory.usage_in_bytes"))
        # "max", or about 2^63 in version 1: none
        if not limit.isdigit() or int(limit) >= 1 << 62:
            continue
        if least is None or int(limit) < least[0]:
            least = int(limit), int(used) if used.isdigit() else 0
    return least


def memory(root: Path = ROOT) -> Iterator[Check]:
    """RAM and the memory limit of the cgroup: hub memory counts against both."""
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _memory_limit(root)
    most = ram if limit is None else min(ram, limit[0])
    found = f"{_size(ram)} of RAM"
    if limit is not None:
        found += f", cgroup limit {_size(limit[0])}, {_size(limit[1])} of it used"
    found += f"; a hub takes {_size(most // 4)} at most by default"
    if most < LEAST_MEMORY:
        yield Check(
            "memory",
            "WARN",
            found,
            f"payloads over {_size(most // 4)} need HubConfig(max_bytes=...), or a higher limit",
        )
    elif limit is not None and limit[1] > limit[0] * NEARLY_FULL:
        yield Check(
            "memory",
            "WARN",
            found,
            "little is left: a hub will raise HubNoSpaceError, or the kernel end a process; "
            "raise the limit or lower HubConfig(max_bytes=...)",
        )
    else:
        yield Check("memory", "OK", found)


def shared_memory_folder() -> Iterator[Check]:
    """Size of /dev/shm: what named hubs share. Anonymous ones do not need it."""
    try:
        free, total = shutil.disk_usage(SHM).free, shutil.disk_usage(SHM).total
    except OSError as error:
        yield Check(
            SHM,
            "WARN",
            str(error),
            "only anonymous hubs (no path) can be made; mount a tmpfs there for named ones",
        )
        return
    found = f"{_size(free)} free of {_size(total)}"
    if not os.access(SHM, os.W_OK | os.X_OK):
        yield Check(SHM, "WARN", found + ", not writable", "only anonymous hubs can be made")
    elif free < LEAST_SHM:
        yield Check(
            SHM,
            "WARN",
            found,
            "named hubs will run out of space (HubNoSpaceError): make it larger (docker run "
            "--shm-size=1g), or use anonymous hubs, which are not limited by it",
        )
    else:
        yield Check(SHM, "OK", found)
    stale = [one for one in collect([SHM], dry_run=True) if one.verdict == "stale"]
    if stale:
        yield Check(
            "remains",
            "WARN",
            f"{len(stale)} hubs of dead hosts in {SHM}",
            "remove them: python -m shmhub gc",
        )


def huge_pages(root: Path = ROOT) -> Iterator[Check]:
    """Are shared mappings backed by huge pages? Then each touched slot takes 2 MiB."""
    text = _read(root / "sys/kernel/mm/transparent_hugepage/shmem_enabled")
    chosen = text.partition("[")[2].partition("]")[0]
    if chosen in ("always", "force"):
        yield Check(
            "huge pages",
            "WARN",
            f"shmem_enabled is {chosen}",
            "a small slot may cost 2 MiB of memory: write 'advise' or 'never' to "
            "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
        )
    else:
        yield Check("huge pages", "OK", f"shmem_enabled is {chosen or 'not there'}")


# ---- limits of the process ---------------------------------------------------------------------


def descriptors() -> Iterator[Check]:
    """A host takes up to 4 descriptors for each peer, a peer about 10."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    left = soft - used
    found = f"{soft} at most (hard limit {hard}), {used} used"
    if soft == resource.RLIM_INFINITY or left >= LEAST_DESCRIPTORS:
        yield Check("descriptors", "OK", found)
    elif left >= FEWEST_DESCRIPTORS:
        yield Check(
            "descriptors", "WARN", found, f"enough for {left // 4} peers at most: ulimit -n 1024"
        )
    else:
        yield Check("descriptors", "FAIL", found, "too few for a hub: ulimit -n 1024")


def default_hub() -> Iterator[Check]:
    """Makes the default hub: address space, file size and everything that a hub needs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # said below
            host = HubHost.create()
    except (OSError, ShmhubError) as error:
        yield Check("a hub", "FAIL", str(error), "see the lines above, and docs/faq.md")
        return
    with host:
        size = os.fstat(host.fileno()).st_size
        found = f"{_size(size)} of address space, {host.statistics().memory_bytes >> 10} KiB used"
        if host.limited:
            yield Check(
                "a hub",
                "WARN",
                found + ", less than it could grow to",
                "the address space is limited: ulimit -v unlimited",
            )
        else:
            yield Check("a hub", "OK", found)
        yield from _attach(host)


# The plugin of the last probe: attaches, answers one message.
_ANSWER = (
    "import shmhub\n"
    "with shmhub.HubPeerTransport.from_argv() as host:\n"
    "    host.send(bytes(host.recv(timeout=60)))\n"
)


def _attach(host: HubHost) -> Iterator[Check]:
    from shmhub._transport import HubHostPeerTransport

    info = host.add_peer("doctor")
    try:
        process = info.popen(
            [sys.executable, "-c", _ANSWER], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    except OSError as error:
        yield Check("a plugin", "FAIL", f"cannot be started: {error}", "see `ulimit -u`")
        return
    with process, HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
        try:
            transport.send(b"ping", timeout=START_TIMEOUT)
            answer = bytes(transport.recv(timeout=START_TIMEOUT))
        except (OSError, ShmhubError) as error:
            process.kill()
            said = process.stderr.read().decode(errors="replace") if process.stderr else ""
            last = said.strip().splitlines()[-1:] or [""]
            yield Check(
                "a plugin", "FAIL", f"{error} {last[0]}".strip(), "see docs/faq.md for this error"
            )
            return
    yield Check("a plugin", "OK", f"attached and answered {len(answer)} bytes")


# ---- kernel features ---------------------------------------------------------------------------


def _failed(name: str, error: OSError, advice: str) -> Check:
    code = errno.errorcode.get(error.errno or 0, "error")
    return Check(name, "FAIL", f"{code}: {error.strerror}", advice)


def _last_error() -> OSError:
    """Of the last call through ctypes."""
    return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


SECCOMP = "the kernel is too old, or a seccomp filter (container runtime, sandbox) refuses it"


def anonymous_memory() -> Iterator[Check]:
    """memfd_create, seals, reserving and giving back pages."""
    try:
        fd = os.memfd_create("shmhub-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        yield _failed("memfd_create", error, f"anonymous hubs need it: {SECCOMP}")
        return
    try:
        yield Check("memfd_create", "OK", "works")
        os.ftruncate(fd, 4 * MIB)
        yield _space("memfd", fd, "FAIL")
        try:
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        except OSError as error:
            yield _failed("seals", error, SECCOMP)
        else:
            yield Check("seals", "OK", "a peer cannot shorten a hub")
    finally:
        os.close(fd)


def _space(where: str, fd: int, level: Level) -> Check:
    """Reserve a page, punch it out again, and see whether that is what happened."""
    name = f"fallocate on {where}"
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    for mode, what in ((0, "reserving"), (PUNCH_HOLE, "punching")):
        if libc.fallocate(fd, mode, 0, MIB) < 0:
            return _failed(name, _last_error(), f"{what} pages is needed")._replace(level=level)
        blocks = os.fstat(fd).st_blocks
        if (blocks > 0) != (mode == 0):
            return Check(
                name,
                "WARN",
                f"{what} leaves {blocks} blocks",
                "this file system does not say what a file takes: max_bytes is not kept",
            )
    return Check(name, "OK", "reserves pages and gives them back")


def named_memory() -> Iterator[Check]:
    """The same where named hubs are."""
    try:
        fd = os.open(SHM, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as error:
        advice = "named hubs need a folder on tmpfs, ext4, xfs or btrfs"
        yield _failed(f"files in {SHM}", error, advice)._replace(level="WARN")
        return
    try:
        os.ftruncate(fd, 4 * MIB)
        yield _space(SHM, fd, "WARN")
    finally:
        os.close(fd)


def process_handles() -> Iterator[Check]:
    """pidfd_open, and handing a pidfd to another process: how a death is known."""
    try:
        pidfd = os.pidfd_open(os.getpid())
    except OSError as error:
        yield _failed("pidfd_open", error, f"without it no death is noticed: {SECCOMP}")
        return
    try:
        yield Check("pidfd_open", "OK", "works")
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with left, right:
            socket.send_fds(left, [b"x"], [pidfd])
            _, received, _, _ = socket.recv_fds(right, 1, 1)
            for fd in received:
                os.close(fd)
        if received:
            yield Check("SCM_RIGHTS", "OK", "a pidfd travels over a socket")
        else:
            yield Check("SCM_RIGHTS", "FAIL", "the pidfd did not arrive", SECCOMP)
    except OSError as error:
        yield _failed("SCM_RIGHTS", error, SECCOMP)
    finally:
        os.close(pidfd)


def sleeping() -> Iterator[Check]:
    """epoll, eventfd and futex: how threads sleep and are woken."""
    try:
        fd = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            with select.epoll() as poll:
                poll.register(fd, select.EPOLLIN)
                if not poll.poll(1.0):
                    raise OSError(errno.ETIMEDOUT, "an eventfd that was set did not wake")
        finally:
            os.close(fd)
        yield Check("epoll, eventfd", "OK", "work")
    except OSError as error:
        yield _failed("epoll, eventfd", error, SECCOMP)
    number = FUTEX_NUMBERS.get(platform.machine())
    if number is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    word = ctypes.c_int(0)
    if libc.syscall(number, ctypes.byref(word), FUTEX_WAKE_PRIVATE, 1, None, None, 0) < 0:
        yield _failed("futex", _last_error(), SECCOMP)
    else:
        yield Check("futex", "OK", "works")


# ---- cores -------------------------------------------------------------------------------------


def _quota(root: Path) -> float | None:
    """Cores' worth of time that the cgroup allows; None: no limit."""
    least: float | None = None
    for folder, unified in _groups(root, "cpu"):
        if unified:
            quota, _, period = _read(folder / "cpu.max").partition(" ")
        else:
            quota = _read(folder / "cpu.cfs_quota_us")
            period = _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            cores = int(quota) / int(period)
            least = cores if least is None else min(least, cores)
    return least


def cores(root: Path = ROOT) -> Iterator[Check]:
    """Cores for spinning: a wait that spins answers in a microsecond where a wake-up takes 20."""
    usable = len(os.sched_getaffinity(0))
    quota = _quota(root)
    found = f"{usable} usable" + ("" if quota is None else f", cgroup allows the time of {quota:g}")
    if usable < 2:
        yield Check(
            "cores",
            "WARN",
            found,
            "nothing is gained by spinning on one core: HubConfig(spin=0), and calls take a "
            "wake-up each",
        )
    elif quota is not None and quota < 2:
        yield Check(
            "cores",
            "WARN",
            found,
            "spinning uses up that time: HubConfig(spin=0), or allow 2 cores or more",
        )
    else:
        yield Check("cores", "OK", found)


PROBES: tuple[Probe, ...] = (
    versions,
    memory,
    shared_memory_folder,
    huge_pages,
    cores,
    descriptors,
    anonymous_memory,
    named_memory,
    process_handles,
    sleeping,
    default_hub,
)
