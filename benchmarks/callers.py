"""What calls a function in another process: shmhub's PluginHost, and what one would use instead.

Each caller is a context manager with `call(function_name, argument)` and `submit` (a Future), over
the functions of `benchmarks.plugin_target`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import shmhub

from .harness import BATCH_SECONDS, SINGLES, Case, sized
from .sides import BenchmarkError, die_with_parent, watchdog

TARGET = "benchmarks.plugin_target:plugin"
START_SECONDS = 60.0


class Caller(Protocol):
    name: str

    def call(self, function: str, argument: Any) -> Any: ...
    def submit(self, function: str, argument: Any) -> Future[Any]: ...
    def __enter__(self) -> Caller: ...
    def __exit__(self, *exc: object) -> None: ...


class PluginCaller:
    """shmhub: one handle, `replicas` processes. `spin`: None is the adaptive default, 0 never."""

    def __init__(self, *, replicas: int = 1, spin: float | None = None, **fields: Any) -> None:
        self._replicas = replicas
        self._config = shmhub.HubConfig(spin=spin, **fields)
        self.name = "shmhub" if spin is None else f"shmhub spin={spin:g}"

    def __enter__(self) -> PluginCaller:
        self._stack = contextlib.ExitStack()
        self.host = self._stack.enter_context(shmhub.PluginHost(self._config))
        try:
            self.handle = self.host.spawn(
                TARGET, replicas=self._replicas, env=environment(), start_timeout=START_SECONDS
            )
        except BaseException:
            self._stack.close()
            raise
        self._methods = {name: getattr(self.handle, name) for name in ("echo", "read")}
        self.submit = self.handle.submit
        return self

    def call(self, function: str, argument: Any) -> Any:
        return self._methods[function](argument)

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


class PoolCaller:
    """ProcessPoolExecutor. It pickles, queues and wakes two threads."""

    name = "ProcessPoolExecutor"

    def __init__(self, workers: int = 1) -> None:
        self._workers = workers

    def __enter__(self) -> PoolCaller:
        from . import plugin_target

        self._functions: dict[str, Callable[[Any], Any]] = {
            "echo": plugin_target.give_back,
            "read": plugin_target.read_and_give_back,
        }
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(
            self._workers, mp_context=context, initializer=die_with_parent
        )
        try:  # each worker is there before anything is measured
            ready = [self.submit("echo", number) for number in range(self._workers * 8)]
            for future in ready:
                future.result(START_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        return self

    def submit(self, function: str, argument: Any) -> Future[Any]:
        return self._pool.submit(self._functions[function], argument)

    def call(self, function: str, argument: Any) -> Any:
        return self.submit(function, argument).result()

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class RayCaller:
    """An actor of Ray on this machine (extra; not installed by `bench`)."""

    name = "Ray actor"

    def __enter__(self) -> RayCaller:
        if importlib.util.find_spec("ray") is None:
            raise BenchmarkError("Ray actor: not installed")
        import ray  # type: ignore[import-not-found]

        from . import plugin_target

        class Actor:
            def echo(self, value: Any) -> Any:
                return plugin_target.give_back(value)

            def read(self, array: Any) -> Any:
                return plugin_target.read_and_give_back(array)

        self._ray = ray
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": environment()["PYTHONPATH"]}},
        )
        try:
            self._actor = ray.remote(Actor).remote()
            ray.get(self._actor.echo.remote(b"ready"), timeout=START_SECONDS)
        except BaseException:
            ray.shutdown()
            raise
        return self

    def call(self, function: str, argument: Any) -> Any:
        return self._ray.get(getattr(self._actor, function).remote(argument))

    def submit(self, function: str, argument: Any) -> Future[Any]:
        return getattr(self._actor, function).remote(argument).future()

    def __exit__(self, *exc: object) -> None:
        self._ray.shutdown()


def environment() -> dict[str, str]:
    """So that a worker finds `benchmarks`, wherever it is started."""
    root = str(Path(__file__).resolve().parent.parent)
    return dict(os.environ, PYTHONPATH=os.pathsep.join([root, *(p for p in sys.path if p)]))


@contextlib.contextmanager
def started(callers: Iterable[Caller]) -> Iterator[tuple[dict[str, Caller], list[str]]]:
    """All that can run here, by name, and why the others cannot."""
    running: dict[str, Caller] = {}
    reasons: list[str] = []
    with contextlib.ExitStack() as stack:
        for caller in callers:
            try:
                running[caller.name] = stack.enter_context(caller)
            except Exception as error:  # one contender's trouble must not end the others' run
                text = str(error)
                reasons.append(
                    text if text.startswith(f"{caller.name}:") else f"{caller.name}: {error!r}"
                )
        yield running, reasons


def call_case(caller: Caller, argument: Any, seconds: float = BATCH_SECONDS) -> Case:
    """Calls one after the other, in batches and one by one."""

    def many(count: int) -> float:
        call = caller.call
        with watchdog():
            begin = time.perf_counter_ns()
            for _ in range(count):
                call("echo", argument)
            return (time.perf_counter_ns() - begin) / count

    def one_by_one() -> list[int]:
        return [int(many(1)) for _ in range(SINGLES)]

    return Case(caller.name, sized(many, seconds, 50), one_by_one)
