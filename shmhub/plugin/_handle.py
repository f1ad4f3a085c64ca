"""What `spawn` returns: the plugin's methods, and control over its processes.

Calls go to `_dispatch.Group`, the rest to `_replicas.Replicas`; here are names and arguments.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from shmhub._errors import PluginMissingMethod
from shmhub._rpc import carries_stream
from shmhub.plugin._channel import Channel
from shmhub.plugin._events import ReplicaStatus, State
from shmhub.plugin._future import CallFuture

if TYPE_CHECKING:
    from concurrent.futures import Future

    from shmhub._rpc import Stream
    from shmhub.plugin._replicas import Replicas

__all__ = ["UNSET", "Methods", "PluginHandle"]


class _Unset:
    def __repr__(self) -> str:
        return "<the default>"


UNSET: Any = _Unset()


class PluginHandle:
    """A plugin, with all its replicas. Made by `PluginHost.spawn`.

    The plugin's methods are attributes: `image.resize(png, width=640)` calls and waits; a generator
    method gives a `Stream`. All arguments of such a call reach the plugin; `call` and its like also
    take `timeout=` for themselves. Methods whose names are the handle's own are at `methods`.

    A call waits while its plugin is restarted. It raises

    * what the method raised, as a `RemoteError` that also is the nearest built-in exception,
    * `HubTimeoutError`: its time is over; `.outcome` says whether it may have run,
    * `PluginDiedError`: the plugin died of it, or has failed for good,
    * `QueueFullError`, `CodecError`, `PluginMissingMethod`, `HubClosedError`.

    Safe from several threads.
    """

    def __init__(
        self,
        replicas: Replicas,
        host: Any,
        *,
        timeout: float | None,
        view: bool = False,
        retry: bool | None = None,
        pass_all: bool = False,
    ) -> None:
        self._replicas = replicas
        self._host = host  # a host that is dropped ends its plugins
        self._timeout = _seconds(timeout)
        self._view = view
        self._retry = retry
        self._pass_all = pass_all

    # Calls

    def call(self, method: str, /, *args: Any, timeout: float | None = UNSET, **kwargs: Any) -> Any:
        """Call and wait for the result.

        Args:
            timeout: seconds for everything, waiting for a free replica included; None: for ever;
                the default is spawn's `call_timeout`.
        """
        timeout = self._own(timeout, kwargs)
        self._check_kind(method, "call", "call")
        return self._replicas.group.call(method, args, kwargs, timeout, self._view, self._retry)

    def submit(
        self, method: str, /, *args: Any, timeout: float | None = UNSET, **kwargs: Any
    ) -> Future[Any]:
        """Call without waiting; the Future can be cancelled while the call is running, too.

        Arguments must not be changed before the call is done: they are sent when a replica has
        room.

        Raises:
            QueueFullError, HubClosedError, PluginDiedError: the call is not accepted.
        """
        self._check_kind(method, "submit", "call")
        future = self._make(method, args, kwargs, self._own(timeout, kwargs))
        self._replicas.group.submit(future)
        return future

    def stream(
        self, method: str, /, *args: Any, timeout: float | None = UNSET, **kwargs: Any
    ) -> Stream:
        """Call a generator method: an iterator and context manager of what it yields.

        A stream keeps a thread of its replica busy until it ends or is closed.

        Args:
            timeout: as for `call`; for the whole stream.
        """
        future = self._prepare(method, args, kwargs, timeout, kind="stream")
        group = self._replicas.group
        group.submit(future)
        return cast("Stream", group.wait(future))

    def notify(
        self, method: str, /, *args: Any, timeout: float | None = UNSET, **kwargs: Any
    ) -> None:
        """Call a method and forget it: no result, no error, no word of whether it ran.

        Waits while the plugin restarts. The replicas with the fewest calls get notifications in
        turn; one that runs does not count as a call, and `watchdog` does not watch it.
        """
        timeout = self._own(timeout, kwargs)
        self._check_kind(method, "notify", "call")
        self._replicas.group.notify(method, args, kwargs, timeout)

    def call_all(
        self, method: str, /, *args: Any, timeout: float | None = UNSET, **kwargs: Any
    ) -> list[Any]:
        """Call on every replica that is ready, and wait for all.

        Args:
            timeout: as for `call`; for all of them together.

        Returns:
            the results in the order of the replicas.

        Raises:
            TypeError: there is a generator among the arguments, which only one could read.
            what the first of them raised, in that order, when all have ended. Nothing is tried
            again: a replica that died gives a PluginDiedError.
        """
        futures = self._submit_all(method, args, kwargs, timeout)
        try:
            for future in futures:
                future.exception()
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]

    def options(
        self, *, timeout: float | None = UNSET, view: bool = UNSET, retry: bool | None = UNSET
    ) -> PluginHandle:
        """The same plugin with other defaults; through it *all* keywords reach the plugin.

        Args:
            timeout: seconds, for each call; None: for ever.
            view: results that were sent as bytes come as a memoryview, without a copy.
            retry: what becomes of a call that may have run when its plugin died. True: it is sent
                again, False: it is reported, None: as the method says (`idempotent`).
        """
        return PluginHandle(
            self._replicas,
            self._host,
            timeout=self._timeout if timeout is UNSET else timeout,
            view=self._view if view is UNSET else bool(view),
            retry=self._retry if retry is UNSET else retry,
            pass_all=True,
        )

    @property
    def methods(self) -> Methods:
        """The plugin's methods under their own names, whatever those are."""
        return Methods(self)

    # Control

    @property
    def name(self) -> str:
        return self._replicas.name

    @property
    def pid(self) -> int | None:
        """The process of the first replica that has one."""
        return next((one.pid for one in self._replicas.replicas if one.pid is not None), None)

    @property
    def state(self) -> State:
        """The best of its replicas': ready, restarting, starting, stopping, failed, stopped."""
        return self._replicas.state

    @property
    def replicas(self) -> tuple[ReplicaStatus, ...]:
        """Each replica as it is just now."""
        return tuple(one.status() for one in self._replicas.replicas)

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until all replicas, save those that failed for good, take calls.

        Raises:
            HubTimeoutError: not within `timeout` seconds.
            PluginDiedError, PluginStartError: all have failed.
            HubClosedError: it was stopped.
        """
        self._replicas.wait_ready(_seconds(timeout))

    def restart(self, timeout: float | None = None) -> None:
        """Start every replica anew, one after the other; calls wait meanwhile.

        A plugin that has failed for good gets another chance.

        Raises:
            HubTimeoutError: not done within `timeout` seconds; it goes on.
            PluginStartError, InterfaceError: a replica did not come up.
            HubClosedError: it was stopped, before or meanwhile.
        """
        self._replicas.restart(_seconds(timeout))

    def stop(self, timeout: float | None = None) -> None:
        """Wait for the calls, then end all processes in good order; idempotent.

        Args:
            timeout: seconds for calls to end before they are cancelled; None: the host's
                `stop_timeout`. A process that does not leave after that gets SIGTERM, then SIGKILL.
        """
        self._host._stop([self._replicas], self._host._deadline(timeout))

    def kill(self) -> None:
        """End all processes at once, with SIGKILL, and start none again; idempotent."""
        self._replicas.site.check_not_forked("kill")
        self._replicas.kill()

    # Names

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"plugin {self.name!r} has no attribute {name!r}", name=name)
        bound = self.__dict__[name] = self._bind(name)
        return bound

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._replicas.methods})

    def __repr__(self) -> str:
        return f"<PluginHandle {self.name!r} {self.state}, {len(self._replicas.replicas)} replicas>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a handle (of plugin {self.name!r}) cannot be sent to another process; let that "
            "process call back, or spawn plugins of its own"
        )

    def _own(self, timeout: float | None, kwargs: dict[str, Any]) -> float | None:
        """The timeout that is meant; through `options` the keyword is the plugin's."""
        if timeout is UNSET:
            return self._timeout
        if self._pass_all:
            kwargs["timeout"] = timeout
            return self._timeout
        return _seconds(timeout)

    def _prepare(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
        *,
        kind: Literal["call", "stream"],
    ) -> CallFuture:
        """What is to be submitted for `call` or `stream`."""
        self._check_kind(method, kind, kind)
        future = self._make(method, args, kwargs, self._own(timeout, kwargs))
        future.kind = kind
        return future

    def _submit_all(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None
    ) -> list[CallFuture]:
        """What `call_all` waits for; waits itself until there is a replica that is ready."""
        timeout = self._own(timeout, kwargs)
        self._check_kind(method, "call_all", "call")
        group = self._replicas.group
        if carries_stream(args, kwargs):
            raise TypeError(
                f"call_all({method!r}): a generator among the arguments can be read by one replica "
                "only; pass a list"
            )
        deadline = None if timeout is None else time.monotonic() + timeout
        futures: list[CallFuture] = []
        channels: list[Channel] = group.wait_channels(timeout)
        for channel in sorted(channels, key=lambda one: one.index):
            future = group.make(method, args, kwargs, deadline, self._view, self._retry)
            futures.append(future)
            group.submit_to(channel, future)
        return futures

    def _check_kind(self, method: str, used: str, wanted: Literal["call", "stream"]) -> None:
        """Is the method one for what was `used`? One that is not known yet may be."""
        kind = self._kind(method)
        if kind is None or kind == wanted:
            return
        is_one, instead = ("a", "stream") if kind == "stream" else ("no", "call")
        raise TypeError(
            f"{used}({method!r}): it is {is_one} generator in plugin {self.name!r}: use {instead}()"
        )

    def _kind(self, method: str) -> str | None:
        known = self._replicas.methods.get(method)
        return None if known is None else known["kind"]

    def _make(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None
    ) -> CallFuture:
        deadline = None if timeout is None else time.monotonic() + timeout
        return self._replicas.group.make(method, args, kwargs, deadline, self._view, self._retry)

    def _bind(self, name: str) -> Callable[..., Any]:
        """The plugin's method as a function; made once a name, because it is called often."""
        methods = self._replicas.methods
        if name not in methods:
            raise missing_method(self.name, name, methods)
        group, timeout, view, retry = (
            self._replicas.group,
            self._timeout,
            self._view,
            self._retry,
        )
        if methods[name]["kind"] == "stream":
            everything = PluginHandle(
                self._replicas, self._host, timeout=timeout, view=view, retry=retry, pass_all=True
            )

            def opening(*args: Any, **kwargs: Any) -> Any:
                return everything.stream(name, *args, **kwargs)

            bound: Callable[..., Any] = opening
        else:
            call = group.call
            past = group.gate.call

            def calling(*args: Any, **kwargs: Any) -> Any:
                if not kwargs:
                    value = past(name, args, timeout)
                    if value is not NotImplemented:
                        return value
                return call(name, args, kwargs, timeout, view, retry)

            def calling_its_way(*args: Any, **kwargs: Any) -> Any:
                return call(name, args, kwargs, timeout, view, retry)

            bound = calling_its_way if view or retry is not None else calling
        bound.__name__ = name
        bound.__qualname__ = f"{self.name}.{name}"
        bound.__doc__ = methods[name].get("doc") or None
        return bound


def _seconds(timeout: float | None) -> float | None:
    """A timeout that can be waited for: nobody sees the end of a longer one."""
    if timeout is None:
        return None
    if not timeout >= 0:  # NaN is not, either
        raise ValueError(f"timeout must be None or seconds from 0, not {timeout!r}")
    return min(timeout, threading.TIMEOUT_MAX)


class Methods:
    """A plugin's methods, also those whose names the handle uses itself."""

    def __init__(self, handle: PluginHandle) -> None:
        self.__dict__["_handle"] = handle

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"no attribute {name!r}", name=name)
        bound = self.__dict__[name] = self._handle._bind(name)
        return bound

    def __dir__(self) -> list[str]:
        return sorted(self._handle._replicas.methods)

    def __repr__(self) -> str:
        return f"<methods of plugin {self._handle.name!r}: {', '.join(dir(self)) or 'none'}>"


def missing_method(plugin: str, name: str, methods: Mapping[str, Any]) -> PluginMissingMethod:
    """The error for a name that is not there, with what may have been meant."""
    close = difflib.get_close_matches(name, methods, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    known = ", ".join(sorted(methods)) or "none at all"
    return PluginMissingMethod(
        f"plugin {plugin!r} has no method {name!r}{hint} It has: {known}", name=name
    )
