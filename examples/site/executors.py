"""Three ways to call the plugins' functions: here, in a process pool, on a hub.

The builder knows `Executor` and nothing else; what it computes is the same with each.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Protocol, Self

import shmhub
from examples.site.chaos import Chaos

__all__ = [
    "MODES",
    "PLUGINS",
    "Executor",
    "InPool",
    "InProcess",
    "OnHub",
    "open_executor",
    "reason",
]

PLUGINS: Final = {
    name: f"examples.site.plugins.{name}" for name in ("text", "style", "image", "font")
}
"""The plugins and their modules."""
HEAVY: Final = ("image", "font")
"""Those that are worth several processes."""
MODES: Final = ("hub", "pool", "serial")
KILL_EVERY: Final = 8
"""With chaos: calls to one kill."""
_START_LIMIT: Final = 60.0  # seconds that processes may take to start
_STUCK: Final = 600.0  # seconds after which a plugin that has not returned is taken for hung


class Executor(Protocol):
    """Calls functions of the plugins. Safe from several threads."""

    lanes: int
    """How many calls at a time keep it busy."""

    @property
    def pids(self) -> list[int]:
        """Processes besides this one."""
        ...

    def call(self, plugin: str, method: str, /, *args: Any) -> Any:
        """What the plugin's function returns; raises what it raises, or that it died."""
        ...

    def close(self) -> None:
        """Ends its processes; idempotent."""
        ...


class _Closing:
    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@functools.cache
def _function(plugin: str, method: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module(PLUGINS[plugin]), method)
    return function


class InProcess(_Closing):
    """Serial: plain calls."""

    lanes = 1

    def __init__(self) -> None:
        _load()

    @property
    def pids(self) -> list[int]:
        return []

    def call(self, plugin: str, method: str, /, *args: Any) -> Any:
        return _function(plugin, method)(*args)

    def close(self) -> None:
        pass


class InPool(_Closing):
    """A ``ProcessPoolExecutor`` with ``replicas`` workers that all have every plugin loaded."""

    def __init__(self, replicas: int) -> None:
        self.lanes = replicas
        context = multiprocessing.get_context("spawn")
        everybody = context.Barrier(replicas)
        self._pool = ProcessPoolExecutor(
            replicas, context, initializer=_start_worker, initargs=(everybody,)
        )
        try:
            # Each waits for all the others: so none gets two of these, and all have started.
            met = [self._pool.submit(_meet) for _ in range(replicas)]
            self._pids = [one.result(2 * _START_LIMIT) for one in met]
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        return self._pids

    def call(self, plugin: str, method: str, /, *args: Any) -> Any:
        return self._pool.submit(_function(plugin, method), *args).result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


_everybody: Any = None


def _start_worker(everybody: Any) -> None:
    global _everybody
    _everybody = everybody
    _load()


def _meet() -> int:
    _everybody.wait(_START_LIMIT)
    return os.getpid()


def _load() -> None:
    for module in PLUGINS.values():
        importlib.import_module(module)


class OnHub(_Closing):
    """Each plugin in processes of its own, the heavy ones in ``replicas``, on one hub.

    What a plugin returns arrives as a view of shared memory, and goes on to the next from there. A
    plugin that dies is started again, and a call that died with it is made again, since all of them
    may be repeated (``idempotent``); a call that kills whoever takes it fails, and that file alone.

    With ``chaos``, plugins are killed at random, and it is called after each kill.
    """

    def __init__(self, replicas: int, chaos: Callable[[], object] | None = None) -> None:
        self.lanes = replicas
        restart = None
        attempts = 2
        if chaos is not None:
            restart = shmhub.RestartPolicy(max_restarts=None, backoff=0.01, backoff_max=0.1)
            attempts = 100  # nothing is wrong with the files
        self._host = shmhub.PluginHost(restart=restart)
        self._chaos: Chaos | None = None

        def spawn(name: str) -> shmhub.PluginHandle:
            return self._host.spawn(
                f"{PLUGINS[name]}:plugin",
                name=name,
                replicas=replicas if name in HEAVY else 1,
                max_attempts=attempts,
                watchdog=_STUCK,
                start_timeout=_START_LIMIT,
            )

        try:
            with ThreadPoolExecutor(len(PLUGINS)) as threads:  # all start at the same time
                self._handles = dict(zip(PLUGINS, threads.map(spawn, PLUGINS), strict=True))
            if chaos is not None:
                self._chaos = Chaos(self._handles, KILL_EVERY, chaos)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        replicas = [one for handle in self._handles.values() for one in handle.replicas]
        return [one.pid for one in replicas if one.pid is not None]

    def call(self, plugin: str, method: str, /, *args: Any) -> Any:
        if self._chaos is not None:
            self._chaos.begins(plugin)
        return self._handles[plugin].call(method, *args)

    def close(self) -> None:
        if self._chaos is not None:
            self._chaos.close()
        self._host.close()


def open_executor(
    mode: str, replicas: int, chaos: Callable[[], object] | None = None
) -> InProcess | InPool | OnHub:
    """The executor for one of `MODES`, its processes started; ``chaos`` as for `OnHub`."""
    if chaos is not None and mode != "hub":
        raise ValueError(f"mode {mode!r} does not survive its processes being killed")
    if mode == "serial":
        return InProcess()
    if mode == "pool":
        return InPool(replicas)
    if mode == "hub":
        return OnHub(replicas, chaos)
    raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")


def reason(error: Exception) -> str:
    """What went wrong, in a line: the same, wherever it was raised."""
    name, text = type(error).__name__, str(error)
    if isinstance(error, shmhub.RemoteError):  # "PLUGIN.METHOD raised TYPE: TEXT"
        text = text.partition(f" raised {error.type_name}")[2].removeprefix(": ")
        name = error.type_name.rpartition(".")[2]
    line = text.strip().partition("\n")[0]
    return f"{name}: {line}" if line else name
