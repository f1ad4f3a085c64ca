"""A plugin that can do everything a test of PluginHost needs, good and bad."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[3]))

import shmhub
from tests.support.gate import pass_gate

plugin = shmhub.Plugin("zoo")
_CALLS: list[Any] = []


@dataclass
class Animal:
    """Of a class that the host can import, too."""

    name: str


@plugin.method(idempotent=True)
def echo(value: Any = None) -> Any:
    return value


@plugin.method
def process() -> int:
    return os.getpid()


@plugin.method
def animal(name: str) -> Animal:
    return Animal(name)


@plugin.method
def remember(value: Any) -> int:
    """Counts in this process."""
    _CALLS.append(value)
    return len(_CALLS)


@plugin.method
def remembered() -> list[Any]:
    return _CALLS


@plugin.method
def memory(index: int) -> Any:
    return _CALLS[index]


@plugin.method
def fail(text: str) -> None:
    raise ValueError(text)


@plugin.method
def gate(paths: list[str], value: Any = None) -> Any:
    pass_gate(*paths)
    return value


@plugin.method(idempotent=True)
def safe_gate(paths: list[str], value: Any = None) -> Any:
    pass_gate(*paths)
    return value


@plugin.method
async def async_echo(value: Any) -> Any:
    return value


@plugin.method
def count(to: int) -> Iterator[int]:
    yield from range(to)


@plugin.method
def total(numbers: Iterator[int], _ballast: bytes = b"") -> int:
    return sum(numbers)


@plugin.method(idempotent=True)
def gated_total(paths: list[str], numbers: Iterator[int], first: int) -> int:
    """The sum, with a gate after so many of them."""
    so_far = sum(next(numbers) for _ in range(first))
    pass_gate(*paths)
    return so_far + sum(numbers)


@plugin.method
def gated(paths: list[str]) -> Iterator[int]:
    yield 1
    pass_gate(*paths)
    yield 2


@plugin.method
async def async_count(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


@plugin.method
def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


@plugin.method(idempotent=True)
def poison(log: str) -> None:
    """Kills each replica that it reaches, and leaves a mark each time."""
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)


@plugin.method
def leave(status: int) -> None:
    os._exit(status)


@plugin.method
def say(text: str, times: int = 1) -> None:
    for _ in range(times):
        print(text, file=sys.stderr)


@plugin.method
def print_out(text: str) -> None:
    print(text)


@plugin.method
def hold_the_gil(paths: list[str]) -> None:
    """In a C call that keeps the GIL: no other thread of Python runs here any more."""
    threading.Thread(target=_enter, args=(paths[0],)).start()
    time.sleep(0.2)  # it must have been written before: nothing will run after
    ctypes.PyDLL(None).sleep(3600)


def _enter(path: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b".")
    os.close(fd)


@plugin.method
def environment() -> dict[str, Any]:
    import resource

    return {
        "executable": sys.executable,
        "prefix": sys.prefix,
        "path": sys.path,
        "argv": sys.argv,
        "warnings": sys.warnoptions,
        "xoptions": {key: str(value) for key, value in sys._xoptions.items()},
        "cwd": os.getcwd(),
        "environ": dict(os.environ),
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cpus": sorted(os.sched_getaffinity(0)),
        "module": __name__,
        "main": "shmhub" in str(getattr(sys.modules["__main__"], "__file__", "")),
        "pgid": os.getpgid(0),
        "fds": sorted(int(one) for one in os.listdir("/proc/self/fd")),
    }


@plugin.method
def deadline() -> float | None:
    return shmhub.current_call().deadline


@plugin.method
def start_child(ignore_hangup: bool = True) -> int:
    """A grandchild that keeps our stdout and stderr open and would run for an hour."""
    import subprocess

    return subprocess.Popen(["sleep", "3600"]).pid


@plugin.method
def ask_host(name: str, *args: Any) -> Any:
    return getattr(plugin.host, name)(*args)


@plugin.method
def nested(depth: int) -> int:
    """Calls the host's `nested`, which calls this one, and so on."""
    return 0 if depth == 0 else int(plugin.host.nested(depth - 1)) + 1


@plugin.method
def kwargs(**given: Any) -> dict[str, Any]:
    return given


@plugin.method(name="stop")
def stop_by_another_name() -> str:
    return "the plugin's own stop"


@plugin.method
def unpicklable_result() -> Any:
    return lambda: None


@plugin.method
def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@plugin.on_startup
def started() -> None:
    _note("startup")


@plugin.on_shutdown
def stopped() -> None:
    _note("shutdown")


def _note(text: str) -> None:
    path = os.environ.get("ZOO_NOTES")
    if path:
        with open(path, "a") as file:
            file.write(f"{text}\n")


if __name__ == "__main__":
    plugin.run()
