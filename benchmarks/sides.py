"""The two processes of a contender: the child, what it is told, and the verbs both sides run.

Knows nothing of shmhub nor of any contender. Every child process started here ends here, by its
pid, whatever happens: it stops when asked or when the control connection closes, it dies with its
parent, and it is killed if it does not listen.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from . import native

WATCHDOG_SECONDS = 60.0
STOP_SECONDS = 5.0
PR_SET_PDEATHSIG = 1
# What the near and the far side write.
WORDS = (0x0123456789ABCDEF, 0x1032547698BADCFE)
TOUCH_SOURCE = Path(__file__).parent / "contenders" / "_touch.c"

_spawn = multiprocessing.get_context("spawn")


class BenchmarkError(RuntimeError):
    """The measurement itself went wrong: no figure may be taken from it."""


@contextlib.contextmanager
def watchdog(seconds: float = WATCHDOG_SECONDS) -> Iterator[None]:
    """A measurement that hangs raises instead; main thread only (it is a SIGALRM)."""

    def expired(signum: int, frame: object) -> None:
        raise BenchmarkError(f"nothing moved for {seconds:.0f} s: the other side hangs or is gone")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pattern(size: int, seed: int) -> bytes:
    """`size` bytes that are the same on both sides and differ by direction (`seed`)."""
    block = bytes((value * 31 + seed * 101 + 7) & 0xFF for value in range(251))
    return (block * (size // len(block) + 1))[:size]


class Desk:
    """What one side needs to swap payloads of a size: how it writes, and how it reads.

    Writing fills the payload where it lies (`write`), reading is one pass over every byte there
    (`read`): the same C functions for every contender. The sum that is read must be that of what
    the other side writes, so a payload that arrives changed ends the measurement. `outgoing` is for
    contenders that cannot write where the payload travels.
    """

    def __init__(self, size: int, *, near: bool) -> None:
        self.size = size
        touch = native.extension("_touch", TOUCH_SOURCE)
        self._fill: Callable[[Any, int], None] = touch.write
        self._sum: Callable[[Any], int] = touch.read
        self._word = WORDS[not near]
        self.outgoing = bytearray(size)
        self._fill(self.outgoing, WORDS[near])
        self._expected = self._sum(self.outgoing)

    def expect_own(self) -> None:
        """What comes back is what this side wrote."""
        self.write(self.outgoing)
        self._expected = self._sum(self.outgoing)

    def write(self, payload: Any) -> None:
        self._fill(payload, self._word)

    def read(self, payload: Any) -> None:
        if self._sum(payload) != self._expected:
            raise BenchmarkError("a payload arrived changed: the figures mean nothing")


@functools.lru_cache(maxsize=4)
def far_desk(size: int) -> Desk:
    """The desk of the side in the child, made once a size."""
    return Desk(size, near=False)


# ---------------------------------------------------------------- the two sides


class Near(Protocol):
    """The measuring side of a contender. It leaves out the verbs it has no means for:

    echo(count, payload)          send, receive what came back; untouched, or nothing but the send
    one_way(count, payload)       send, send, send
    one_way_many(count, payload, batch)   the same, `batch` of them a call
    swap(count, desk)             write a payload, receive another, read it
    """

    def close(self) -> None: ...


class Far:
    """The side in the child process: the other half of each verb, called by name (see `serve`)."""

    def close(self) -> None:
        pass


def serve(far: Far, control: Connection) -> None:
    """The child's loop: do what the control connection says, until it says stop or closes.

    Between commands the child sleeps in the kernel, so a contender that waits for its turn costs
    the others nothing.
    """
    control.send(("ready", os.getpid()))
    try:
        while True:
            try:
                verb, arguments = control.recv()
            except EOFError:
                return
            if verb == "stop":
                return
            try:
                outcome = getattr(far, verb)(**arguments)
            except Exception:
                control.send(("error", traceback.format_exc()))
                raise
            control.send(("done", outcome))
    finally:
        far.close()


def die_with_parent() -> None:
    """A child that spins must not outlive a benchmark that was killed."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _child_main(
    factory: Callable[..., Far], arguments: tuple[Any, ...], control: Connection
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    serve(factory(*arguments), control)


class Child:
    """The process on the other side, and the connection that steers it (never the timed path)."""

    def __init__(self, process: BaseProcess | subprocess.Popen[bytes], control: Connection) -> None:
        self._process = process
        self._control = control
        pid = process.pid
        assert pid is not None
        self.pid: int = pid

    @classmethod
    def spawn(cls, factory: Callable[..., Far], *arguments: Any) -> Child:
        """A fresh interpreter that calls `factory(*arguments)` and serves the result."""
        here, there = _spawn.Pipe(duplex=True)
        process = _spawn.Process(target=_child_main, args=(factory, arguments, there), daemon=True)
        process.start()
        there.close()
        return cls(process, here)

    @classmethod
    def program(cls, start: Callable[..., subprocess.Popen[bytes]], *arguments: str) -> Child:
        """`python -m benchmarks.peer *arguments`, started by `start(argv, **popen_keywords)`.

        The control connection is its standard input: so it needs no descriptor to be passed.
        """
        here, there = _spawn.Pipe(duplex=True)
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        argv = [sys.executable, "-P", "-m", "benchmarks.peer", *arguments]
        process = start(argv, stdin=there.fileno(), env=environment)
        there.close()
        return cls(process, here)

    def ready(self, seconds: float = 30.0) -> None:
        """Wait until it serves."""
        if not self._control.poll(seconds):
            raise BenchmarkError(f"the other side (pid {self.pid}) did not start")
        self._expect("ready")

    def begin(self, verb: str, **arguments: Any) -> None:
        self._control.send((verb, arguments))

    def finish(self) -> Any:
        """What the method that `begin` named returned."""
        return self._expect("done")

    def _expect(self, wanted: str) -> Any:
        try:
            kind, value = self._control.recv()
        except (EOFError, ConnectionResetError) as error:
            raise BenchmarkError(f"the other side (pid {self.pid}) ended") from error
        if kind != wanted:
            raise BenchmarkError(f"the other side (pid {self.pid}) failed:\n{value}")
        return value

    def stop(self) -> None:
        """Ask, wait, and end it by its pid if it did not listen. Idempotent."""
        with contextlib.suppress(OSError, ValueError):
            self._control.send(("stop", {}))
        if not self._wait(STOP_SECONDS):
            self._process.kill()
            self._wait(STOP_SECONDS)
        self._control.close()

    def _wait(self, seconds: float) -> bool:
        if isinstance(self._process, subprocess.Popen):
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                return False
            return True
        self._process.join(seconds)
        return self._process.exitcode is not None


class Link:
    """Both sides of one contender, joined: what the benches measure.

    A verb is a method of both sides: `near.verb(count, **near_arguments)` runs here while
    `far.verb(count, **far_arguments)` runs in the child.
    """

    def __init__(self, near: Near, child: Child) -> None:
        self.near: Any = near
        self.child = child

    def run(
        self, verb: str, count: int, near: dict[str, Any], far: dict[str, Any], *, warm: int = 0
    ) -> float:
        """ns an operation of a verb whose near side returns when the last operation is over."""
        operation = getattr(self.near, verb)
        with watchdog():
            self.child.begin(verb, count=count + warm, **far)
            if warm:
                operation(warm, **near)
            begin = time.perf_counter_ns()
            operation(count, **near)
            elapsed = time.perf_counter_ns() - begin
            self.child.finish()
        return elapsed / count

    def pour(self, verb: str, count: int, near: dict[str, Any], far: dict[str, Any]) -> float:
        """ns an operation of a one-way verb: over when the child has received the last one.

        The child sends one message on the control connection then: 30 us in a batch of 100 ms.
        """
        operation = getattr(self.near, verb)
        with watchdog():
            self.child.begin(verb, count=count, **far)
            begin = time.perf_counter_ns()
            operation(count, **near)
            self.child.finish()
            elapsed = time.perf_counter_ns() - begin
        return elapsed / count

    def singles(
        self, verb: str, count: int, near: dict[str, Any], far: dict[str, Any]
    ) -> list[int]:
        """The same operations timed one by one, for percentiles."""
        operation = getattr(self.near, verb)
        clock = time.perf_counter_ns
        times: list[int] = []
        with watchdog():
            self.child.begin(verb, count=count, **far)
            for _ in range(count):
                begin = clock()
                operation(1, **near)
                times.append(clock() - begin)
            self.child.finish()
        return times

    def swap(self, count: int, desk: Desk, *, warm: int = 0) -> float:
        """ns a round trip in which both sides write and read every byte."""
        return self.run("swap", count, {"desk": desk}, {"size": desk.size}, warm=warm)

    def close(self) -> None:
        """The child first: it may still use what this side owns."""
        try:
            self.child.stop()
        finally:
            self.near.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
