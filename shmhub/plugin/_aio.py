"""PluginHost for asyncio: `shmhub.aio.PluginHost`, the same meaning with `await`.

Over the synchronous host: its threads read answers, start and end processes; a task waits for a
Future. What copies more than a megabyte, or may wait, runs in threads, never in the loop: copies
in a few that all share, whatever waits for a plugin in a thread of its own. No number of waits
holds up a copy, or the end.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from shmhub._errors import HubClosedError
from shmhub._rpc._current import current
from shmhub.plugin._aio_stream import LARGE, AsyncStream
from shmhub.plugin._handle import UNSET, PluginHandle
from shmhub.plugin._host import PluginHost as SyncPluginHost

if TYPE_CHECKING:
    from shmhub._host import HubHost
    from shmhub._rpc import CurrentCall
    from shmhub._statistics import HubStatistics
    from shmhub.plugin._events import ReplicaStatus, State
    from shmhub.plugin._future import CallFuture
    from shmhub.plugin._target import TargetArgument

__all__ = ["AsyncMethods", "AsyncPluginHandle", "AsyncStream", "PluginHost"]

COPIERS = 4
"""Threads for large copies."""
CANCEL_SECONDS = 1.0
"""How long a cancelled callback may take when everything else has ended."""


class PluginHost:
    """Runs plugins in processes of their own; for asyncio.

    ::

        async with shmhub.aio.PluginHost() as host:
            image = await host.spawn("image.py", replicas=2)
            webp = await image.resize(png, width=640)
            async for tile in image.tiles(png):
                ...

    Arguments, errors and guarantees are those of `shmhub.PluginHost`. A cancelled call is cancelled
    in its plugin, too. Use it from one event loop.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        on_event = options.get("on_event")
        if on_event is not None and inspect.iscoroutinefunction(on_event):
            options["on_event"] = self._in_loop(on_event)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = False
        self._callbacks: set[asyncio.Task[Any]] = set()
        self._sync = SyncPluginHost(*args, **options)
        self._copiers = ThreadPoolExecutor(COPIERS, "shmhub asyncio copy")

    async def spawn(self, target: TargetArgument, **options: Any) -> AsyncPluginHandle:
        """Start a plugin; returns when all its replicas have said what they offer.

        Cancelled, it ends what it has started.

        Args:
            target, options: as for `shmhub.PluginHost.spawn`.
        """
        starting = self._in_own_thread(self._sync.spawn, target, **options)
        try:
            return AsyncPluginHandle(await asyncio.shield(starting), self)
        except asyncio.CancelledError:
            starting.add_done_callback(self._end_unwanted)
            raise

    def _end_unwanted(self, starting: asyncio.Future[PluginHandle]) -> None:
        if not starting.cancelled() and starting.exception() is None:
            self._in_own_thread(starting.result().kill)

    def callback(
        self, function: Callable[..., Any] | None = None, /, *, name: str | None = None
    ) -> Any:
        """Let plugins call a function: there it is `plugin.host.NAME(...)`. Also a decorator.

        An `async def` function runs in this host's event loop, another one in a thread. It is
        cancelled with its call, when its plugin has gone, too; a notification's not before this
        host has closed.
        """
        if function is None:
            return lambda one: self.callback(one, name=name)
        called = function
        if inspect.iscoroutinefunction(function):
            self._enter()
            called = self._in_loop(function)
        self._sync.callback(called, name=name)
        return function

    def _in_loop(self, function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        async def begin(call: CurrentCall | None, /, *args: Any, **kwargs: Any) -> Any:
            task = asyncio.current_task()
            assert task is not None
            self._callbacks.add(task)
            task.add_done_callback(self._callbacks.discard)
            late = self._ended
            if call is not None and not call.answered:  # of a notification nobody waits for the end
                call.task = task
                late = late or call.cancelled
            if late:  # it was cancelled before there was a task
                raise asyncio.CancelledError
            return await function(*args, **kwargs)

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._loop is None:
                raise HubClosedError(f"{function!r}: this host's event loop does not run yet")
            if self._ended:
                raise HubClosedError(f"{function!r}: this host is closed")
            running = begin(current.get(), *args, **kwargs)
            future = asyncio.run_coroutine_threadsafe(running, self._loop)
            with self._sync._site.waiting():  # its thread is free for others meanwhile
                return future.result()

        # `wraps` refers to the original, which would be taken for what is called.
        told: Any = run
        told.__signature__ = inspect.signature(function)
        del told.__wrapped__
        return run

    @property
    def hub(self) -> HubHost:
        """The hub that all plugins are on."""
        return self._sync.hub

    @property
    def closed(self) -> bool:
        return self._sync.closed

    def statistics(self) -> HubStatistics:
        """What the hub holds and has done."""
        return self._sync.statistics()

    async def close(self, timeout: float | None = None) -> None:
        """Wait for the calls, end all plugins, then the hub; idempotent."""
        await self._end(functools.partial(self._sync.close, timeout))

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end(functools.partial(self._sync.__exit__, kind, value, traceback))

    def __repr__(self) -> str:
        return f"<asyncio {self._sync!r}>"

    async def _end(self, close: Callable[[], None]) -> None:
        """Whatever becomes of the task, nothing is left running."""
        if self._sync.closed:
            return
        closing = self._in_own_thread(close)
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait([closing, self._in_own_thread(self._sync.kill_all)])
            raise
        finally:
            if closing.done():
                self._copiers.shutdown(wait=False)
                await self._end_callbacks()

    async def _end_callbacks(self) -> None:
        """Nobody waits for them any more, and their time to end by themselves is over."""
        self._ended = True
        left = [one for one in self._callbacks if one is not asyncio.current_task()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CANCEL_SECONDS)

    def _enter(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError(f"{self!r} belongs to another event loop")
        return loop

    def _in_copier(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run what copies much, and waits for nothing."""
        copiers = None if self.closed else self._copiers  # which end with the host
        context = contextvars.copy_context()  # says whose callback a call is a part of
        run = functools.partial(context.run, function, *args)
        return self._enter().run_in_executor(copiers, run)

    def _in_own_thread(
        self, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> asyncio.Future[Any]:
        """Run what may wait for ever; it goes on when the future is cancelled."""
        outcome: Future[Any] = Future()
        outcome.set_running_or_notify_cancel()
        waiting = asyncio.wrap_future(outcome, loop=self._enter())
        run = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
        threading.Thread(
            target=_run_into, args=(outcome, run), name="shmhub asyncio", daemon=True
        ).start()
        return waiting


class AsyncPluginHandle:
    """A plugin, with all its replicas. Made by `await shmhub.aio.PluginHost.spawn`.

    The plugin's methods are attributes: `await image.resize(png)`; a generator method gives an
    `AsyncStream`. Names, arguments and errors are those of `shmhub.PluginHandle`.
    """

    def __init__(self, handle: PluginHandle, host: PluginHost) -> None:
        self._sync = handle
        self._host = host

    # Calls

    async def call(
        self, method: str, /, *args: Any, timeout: float | None = UNSET, **kwargs: Any
    ) -> Any:
        """Call and wait for the result. Cancelling it cancels the call in the plugin."""
        future = self._sync._prepare(method, args, kwargs, timeout, kind="call")
        return await self._submitted(future, _is_large(args, kwargs))

    def submit(
        self, method: str, /, *args: Any, timeout: float | None = UNSET, **kwargs: Any
    ) -> asyncio.Task[Any]:
        """The same as a task of its own."""
        return self._host._enter().create_task(self.call(method, *args, timeout=timeout, **kwargs))

    def stream(
        self, method: str, /, *args: Any, timeout: float | None = UNSET, **kwargs: Any
    ) -> AsyncStream:
        """Call a generator method; it begins with the first item asked for, or `async with`."""
        future = self._sync._prepare(method, args, kwargs, timeout, kind="stream")
        large = _is_large(args, kwargs)
        return AsyncStream(future, lambda: self._submitted(future, large), self._host)

    async def notify(
        self, method: str, /, *args: Any, timeout: float | None = UNSET, **kwargs: Any
    ) -> None:
        """Call a method and forget it."""
        await self._host._in_own_thread(self._sync.notify, method, *args, timeout=timeout, **kwargs)

    async def call_all(
        self, method: str, /, *args: Any, timeout: float | None = UNSET, **kwargs: Any
    ) -> list[Any]:
        """Call on every replica that is ready, and wait for all. Cancelling it cancels them."""
        submitting: asyncio.Future[list[CallFuture]] = self._host._in_own_thread(
            self._sync._submit_all, method, args, kwargs, timeout
        )
        try:
            futures = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            submitting.add_done_callback(_cancel_unwanted)
            raise
        answers = [asyncio.wrap_future(future) for future in futures]
        try:
            await asyncio.gather(*answers, return_exceptions=True)
            return [answer.result() for answer in answers]
        finally:
            del futures, answers  # or an error's traceback would keep itself alive

    def options(
        self, *, timeout: float | None = UNSET, view: bool = UNSET, retry: bool | None = UNSET
    ) -> AsyncPluginHandle:
        """The same plugin with other defaults; through it *all* keywords reach the plugin."""
        changed = self._sync.options(timeout=timeout, view=view, retry=retry)
        return AsyncPluginHandle(changed, self._host)

    async def _submitted(self, future: CallFuture, large: bool) -> Any:
        loop = self._host._enter()
        answer = asyncio.wrap_future(future, loop=loop)
        submit = self._sync._replicas.group.submit
        try:
            if large:
                await self._host._in_copier(submit, future)
            else:
                submit(future)
        except BaseException:
            future.cancel()
            raise
        try:
            return await answer
        finally:
            del future, answer  # or an error's traceback would keep itself alive

    # Control

    @property
    def methods(self) -> AsyncMethods:
        """The plugin's methods under their own names, whatever those are."""
        return AsyncMethods(self)

    @property
    def name(self) -> str:
        return self._sync.name

    @property
    def pid(self) -> int | None:
        """The process of the first replica that has one."""
        return self._sync.pid

    @property
    def state(self) -> State:
        """The best of its replicas': ready, restarting, starting, stopping, failed, stopped."""
        return self._sync.state

    @property
    def replicas(self) -> tuple[ReplicaStatus, ...]:
        """Each replica as it is just now."""
        return self._sync.replicas

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until all replicas, save those that failed for good, take calls."""
        await self._host._in_own_thread(self._sync.wait_ready, timeout)

    async def restart(self, timeout: float | None = None) -> None:
        """Start every replica anew, one after the other; calls wait meanwhile."""
        await self._host._in_own_thread(self._sync.restart, timeout)

    async def stop(self, timeout: float | None = None) -> None:
        """Wait for the calls, then end all processes in good order; idempotent."""
        await self._host._in_own_thread(self._sync.stop, timeout)

    def kill(self) -> None:
        """End all processes at once, with SIGKILL, and start none again; idempotent."""
        self._sync.kill()

    # Names

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"plugin {self.name!r} has no attribute {name!r}", name=name)
        bound = self.__dict__[name] = self._bind(name)
        return bound

    def _bind(self, name: str) -> Callable[..., Any]:
        like = self._sync._bind(name)  # PluginMissingMethod, if there is none
        passing_all = self.options()
        call = passing_all.stream if self._sync._kind(name) == "stream" else passing_all.call
        bound = functools.partial(call, name)
        functools.update_wrapper(bound, like)
        return bound

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._sync._replicas.methods})

    def __repr__(self) -> str:
        return f"<asyncio {self._sync!r}>"


class AsyncMethods:
    """A plugin's methods, also those whose names the handle uses itself."""

    def __init__(self, handle: AsyncPluginHandle) -> None:
        self.__dict__["_handle"] = handle

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"no attribute {name!r}", name=name)
        bound = self.__dict__[name] = self._handle._bind(name)
        return bound

    def __dir__(self) -> list[str]:
        return sorted(self._handle._sync._replicas.methods)


def _run_into(outcome: Future[Any], function: Callable[[], Any]) -> None:
    try:
        value = function()
    except BaseException as error:
        outcome.set_exception(error)
    else:
        outcome.set_result(value)
    finally:
        del outcome  # or an error's traceback would keep itself alive


def _cancel_unwanted(submitting: asyncio.Future[list[CallFuture]]) -> None:
    if not submitting.cancelled() and submitting.exception() is None:
        for future in submitting.result():
            future.cancel()


def _size(value: Any) -> int:
    """Bytes that an argument brings along, as far as that is seen at once."""
    if isinstance(value, bytes | bytearray | str):
        return len(value)
    size = getattr(value, "nbytes", None)
    return size if isinstance(size, int) else 0


def _is_large(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    total = 0
    for value in (*args, *kwargs.values()):
        if isinstance(value, list | tuple):
            total += sum(map(_size, value))
        elif isinstance(value, dict):
            total += sum(map(_size, value.values()))
        else:
            total += _size(value)
    return total >= LARGE
