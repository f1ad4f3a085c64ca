"""PluginHost: starts plugins, is called back by them, ends them all.

Arguments are checked and put together here; the work is done below it: `_site` (what all plugins
share), `_replicas` (lives), `_dispatch` (calls).
"""

from __future__ import annotations

import atexit
import functools
import logging
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from shmhub._errors import HubClosedError, PluginStartError
from shmhub._rpc import Method, get_codec
from shmhub.plugin._dispatch import Group
from shmhub.plugin._events import PluginEvent
from shmhub.plugin._handle import PluginHandle
from shmhub.plugin._interface import check_interface
from shmhub.plugin._limits import Rlimits, plain_limits
from shmhub.plugin._names import CALLBACK_NAMES, check_method_name
from shmhub.plugin._replica import Plan
from shmhub.plugin._replicas import Replicas
from shmhub.plugin._restart import RestartPolicy
from shmhub.plugin._site import Site
from shmhub.plugin._target import Target, TargetArgument, options_variable, wrapped

if TYPE_CHECKING:
    from shmhub._config import HubConfig
    from shmhub._host import HubHost
    from shmhub._statistics import HubStatistics

__all__ = ["PluginHost"]

logger = logging.getLogger("shmhub.plugin")

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

RPC_VERSION = 1


class PluginHost:
    """Runs plugins in processes of their own, over one hub. A context manager.

    Leaving `with` waits up to `stop_timeout` for calls, then ends all plugins; on an exception it
    cancels the calls first. Nothing is left: no process, no descriptor, no memory. Plugins also end
    when this process does, however that happens.

    Args:
        config: the hub's sizes and limits.
        path: of the hub; None: anonymous memory, which leaves nothing behind.
        restart: what becomes of plugins that die, unless `spawn` says otherwise.
        codec: "pickle", or "plain" for plugins that are not trusted; or one of your own.
        hold_limit: bytes of received slots that this process may hold; what comes beyond that is
            copied to private memory. None: half of what the hub may take.
        stop_timeout: seconds.
        callback_threads: how many callbacks run at once; as many threads run done-callbacks.
        on_event: called with a `PluginEvent`, in a thread of its own, in order.
        echo: what plugins write to stdout and stderr also goes to this process's stderr, behind
            "[name] ". It is logged in any case, to `shmhub.plugin.NAME`, as INFO.

    Safe from several threads. In a forked child its plugins raise HubForkedError.

    Raises:
        as `HubHost.create`.
    """

    def __init__(
        self,
        config: HubConfig | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        restart: RestartPolicy | None = None,
        codec: Any = "pickle",
        hold_limit: int | None = None,
        stop_timeout: float = 5.0,
        callback_threads: int = 4,
        on_event: Callable[[PluginEvent], object] | None = None,
        echo: bool = True,
    ) -> None:
        _check_number("stop_timeout", stop_timeout, 0)
        _check_number("callback_threads", callback_threads, 1, whole=True)
        get_codec(codec)  # an unknown one is a mistake here, not at the first spawn
        self._restart = restart if restart is not None else RestartPolicy()
        self._codec = codec
        self._stop_timeout = stop_timeout
        self._site = Site(
            config,
            path,
            callback_threads=callback_threads,
            hold_limit=hold_limit,
            on_event=on_event,
            echo=echo,
        )
        # At the end of the program, or when nobody has it any more.
        self._last_resort = weakref.finalize(self, _abandon, self._site)
        _see_the_exit()

    # Plugins

    @overload
    def spawn(
        self,
        target: TargetArgument,
        *,
        interface: type[T],
        name: str | None = None,
        args: Sequence[str] = (),
        python: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        replicas: int = 1,
        threads: int | None = None,
        restart: RestartPolicy | None = None,
        max_attempts: int = 2,
        max_pending: int | None = None,
        call_timeout: float | None = None,
        watchdog: float | None = None,
        start_timeout: float | None = 30.0,
        codec: Any = None,
        rlimits: Rlimits | None = None,
        nice: int | None = None,
        cpus: Iterable[int] | None = None,
    ) -> T: ...

    @overload
    def spawn(
        self,
        target: TargetArgument,
        *,
        interface: None = None,
        name: str | None = None,
        args: Sequence[str] = (),
        python: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        replicas: int = 1,
        threads: int | None = None,
        restart: RestartPolicy | None = None,
        max_attempts: int = 2,
        max_pending: int | None = None,
        call_timeout: float | None = None,
        watchdog: float | None = None,
        start_timeout: float | None = 30.0,
        codec: Any = None,
        rlimits: Rlimits | None = None,
        nice: int | None = None,
        cpus: Iterable[int] | None = None,
    ) -> PluginHandle: ...

    def spawn(
        self,
        target: TargetArgument,
        *,
        interface: type[Any] | None = None,
        name: str | None = None,
        args: Sequence[str] = (),
        python: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        replicas: int = 1,
        threads: int | None = None,
        restart: RestartPolicy | None = None,
        max_attempts: int = 2,
        max_pending: int | None = None,
        call_timeout: float | None = None,
        watchdog: float | None = None,
        start_timeout: float | None = 30.0,
        codec: Any = None,
        rlimits: Rlimits | None = None,
        nice: int | None = None,
        cpus: Iterable[int] | None = None,
    ) -> Any:
        """Start a plugin; returns when all its replicas have said what they offer.

        Args:
            target: what to start. A path, or a string with ".py" or a separator: a file, which is
                imported under its own name and needs no `plugin.run()`. "module:attr": the Plugin
                of that name. Another string: an entry point of the group `shmhub.plugins`. A list:
                a program in any language and its arguments; the hub's own are appended.
            interface: a Protocol or class; what it declares, the plugin must offer. Type checkers
                take the result for one of it; derive it from `shmhub.PluginHandle` to have the
                handle's own names as well.
            name: None: the target's.
            args: more arguments for the program (`sys.argv`).
            python: another interpreter; shmhub must be installed there. None: this one, with its
                virtual environment, `sys.path`, -X and -W.
            env: the whole environment, as for subprocess; None: this process's.
            cwd: the folder that it runs in.
            replicas: how many processes.
            threads: calls that each runs at a time; None: as the plugin says.
            restart: None: the host's.
            max_attempts: how often a call may run when replicas die of it.
            max_pending: calls that may wait for a replica; None: any number.
            call_timeout: seconds, for calls that say nothing else.
            watchdog: a replica is killed when one call has been running for so many seconds;
                streams and notifications are not watched.
            start_timeout: seconds until a process must have said hello; None: for ever.
            codec: None: the host's.
            rlimits, nice, cpus: what each process may use, see `rlimits` in docs/plugins.md.

        Raises:
            PluginStartError: it did not come up; `.stderr_tail` has its last lines.
            InterfaceError: it does not offer `interface`.
            PeerLimitError: no room for so many processes (`HubConfig(max_peers=...)`).
            HubClosedError, HubForkedError
            TypeError, ValueError: a wrong argument.
        """
        self._check_open("spawn")
        interpreter = None if python is None else os.fspath(python)
        folder = None if cwd is None else os.fspath(cwd)
        found = Target.of(target, python=interpreter)
        called = _checked_name(found.name if name is None else name, chosen=name is not None)
        _check_number("replicas", replicas, 1, whole=True)
        _check_number("max_attempts", max_attempts, 1, whole=True)
        for what, number, low, whole in (
            ("threads", threads, 1, True),
            ("max_pending", max_pending, 0, True),
            ("call_timeout", call_timeout, 0, False),
            ("watchdog", watchdog, 0.001, False),
            ("start_timeout", start_timeout, 0, False),
        ):
            if number is not None:
                _check_number(what, number, low, whole=whole)
        if interface is not None and not isinstance(interface, type):
            raise TypeError(f"spawn: interface must be a Protocol or class, not {interface!r}")
        if isinstance(args, str | bytes):
            raise TypeError(f"spawn: args must be a list of strings, not {args!r}")
        used_codec = get_codec(self._codec if codec is None else codec)
        limits = plain_limits(rlimits, nice, cpus)
        options = {
            **found.options(interpreter),
            "name": called,
            "threads": threads,
            "codec": used_codec.name,
            "limits": limits,
        }
        command = found.command(interpreter, [os.fspath(one) for one in args], folder)
        if found.kind == "program":
            command = wrapped(command, limits)
        environment = dict(os.environ if env is None else env)
        environment.update(options_variable(options))
        plan = Plan(
            name=called,
            text=found.text,
            command=command,
            env=environment,
            cwd=folder,
            codec=used_codec,
            restart=self._restart if restart is None else restart,
            start_timeout=start_timeout,
            check=lambda hello: _check_hello(called, hello, interface, used_codec.name),
        )
        group = Group(
            called,
            loop=self._site.loop,
            workers=self._site.workers,
            max_pending=max_pending,
            max_attempts=max_attempts,
            keep_times=watchdog is not None,
            waiting=self._site.waiting,
        )
        made = Replicas(plan, replicas, site=self._site, group=group, watchdog=watchdog)
        self._site.take(made)
        made.start()
        return PluginHandle(made, self, timeout=call_timeout)

    @overload
    def callback(self, function: F, /, *, name: str | None = None) -> F: ...
    @overload
    def callback(
        self, function: None = None, /, *, name: str | None = None
    ) -> Callable[[F], F]: ...

    def callback(
        self, function: Callable[..., Any] | None = None, /, *, name: str | None = None
    ) -> Any:
        """Let plugins call a function: there it is `plugin.host.NAME(...)`. Also a decorator.

        It runs in one of `callback_threads` threads.

        Raises:
            ValueError: the name cannot be called, or is taken.
            TypeError: it is no function, or a generator: plugins cannot read a stream of the host.
        """
        if function is None:
            return lambda one: self.callback(one, name=name)
        if not callable(function):
            raise TypeError(f"callback({function!r}): not a function")
        method = Method.of(function, name=name)
        if method.kind == "stream":
            raise TypeError(
                f"callback({method.name!r}): it is a generator, and plugins cannot read a stream "
                "of the host; return a list, or pass a generator as an argument of a call"
            )
        check_method_name(method.name, chosen=False, what="callback", taken=CALLBACK_NAMES)
        self._check_open("callback")
        self._site.callbacks.add(method)
        self._site.engine.callbacks_changed()
        return function

    # The hub

    @property
    def hub(self) -> HubHost:
        """The hub that all plugins are on."""
        return self._site.hub

    def statistics(self) -> HubStatistics:
        """What the hub holds and has done."""
        return self._site.hub.statistics()

    # The end

    @property
    def closed(self) -> bool:
        return self._site.closed

    def close(self, timeout: float | None = None) -> None:
        """Wait for the calls, end all plugins, then the hub; idempotent.

        Args:
            timeout: seconds for calls to end before they are cancelled; None: `stop_timeout`.
        """
        if self._site.closed or self._site.forked:
            return
        deadline = self._deadline(timeout)  # a wrong one closes nothing
        self._stop(self._site.begin_close(), deadline)
        self._last_resort.detach()
        self._site.close()

    def kill_all(self) -> None:
        """End all processes at once, with SIGKILL, and start none again."""
        self._site.check_not_forked("kill_all")
        for one in list(self._site.all):
            one.kill()

    def _deadline(self, timeout: float | None) -> float:
        """Until when a stop that begins now waits for calls."""
        self._site.check_not_forked("stop")
        if timeout is None:
            timeout = self._stop_timeout
        _check_number("timeout", timeout, 0)
        if self._site.loop.is_here:
            raise RuntimeError("a plugin host cannot be stopped from its own thread")
        return time.monotonic() + min(timeout, threading.TIMEOUT_MAX)

    def _stop(self, those: list[Replicas], deadline: float) -> None:
        """End some plugins, all at the same time."""
        try:
            for one in those:
                one.begin_stop()
            for one in those:
                one.leave(deadline)
        except BaseException:  # Ctrl-C: no more patience
            for one in those:
                one.kill()
            raise
        for one in those:
            one.finish()

    def _check_open(self, what: str) -> None:
        if self._site.closed:
            raise HubClosedError(f"{what}: this PluginHost is closed")
        self._site.check_not_forked(what)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            for one in list(self._site.all):
                one.group.cancel_all()
        self.close()

    def __repr__(self) -> str:
        if self._site.closed:
            return "<PluginHost closed>"
        return f"<PluginHost of {', '.join(one.name for one in self._site.all) or 'no plugins'}>"


_at_exit = False


def _note_exit() -> None:
    global _at_exit
    _at_exit = True


@functools.cache
def _see_the_exit() -> None:
    """Once there is a finalizer: at the exit what was registered later runs earlier."""
    atexit.register(_note_exit)


def _abandon(site: Site) -> None:
    """Nobody has the host any more, or the program ends.

    A collector runs this in any thread, which may hold any lock: another one does it.
    """
    if site.closed or site.forked:
        return
    if not _at_exit:
        try:
            threading.Thread(target=_end, args=(site,), name="shmhub dropped host").start()
            return
        except RuntimeError:  # no thread can be started
            pass
    _end(site)


def _end(site: Site) -> None:
    """No waiting for calls."""
    for one in site.begin_close():
        one.kill()
    site.close()


def _checked_name(name: str, *, chosen: bool) -> str:
    if not isinstance(name, str) or not name.isprintable() or not name.strip():
        raise ValueError(f"spawn: {name!r} is no name for a plugin")
    # "a.b" would be a logger below another plugin's.
    return name if chosen else name.replace(".", "-")


def _check_number(what: str, value: Any, low: float, *, whole: bool = False) -> None:
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value < math.inf:
        raise ValueError(
            f"{what} must be a {'whole number' if whole else 'number'} from {low}, not {value!r}"
        )


def _check_hello(
    name: str, hello: Mapping[str, Any], interface: type[Any] | None, codec: str
) -> None:
    """Is it one of ours, and what was asked for?"""
    where = f"start plugin {name!r}"
    if "problem" in hello:
        raise PluginStartError(f"{where}: its hello makes no sense: {hello['problem']}")
    if hello.get("rpc") != RPC_VERSION:
        raise PluginStartError(
            f"{where}: it speaks version {hello.get('rpc')!r} of the calls (shmhub "
            f"{hello.get('shmhub')!r}), this host version {RPC_VERSION}: install the same shmhub "
            f"for both ({sys.executable} is the host's)"
        )
    methods: Any = hello.get("methods")
    threads: Any = hello.get("threads")
    wrong = _wrong_with(methods, threads)
    if wrong:
        raise PluginStartError(f"{where}: its hello makes no sense: {wrong}")
    if hello.get("codec", codec) != codec:
        raise PluginStartError(
            f"{where}: it uses the codec {hello.get('codec')!r}, this host {codec!r}; pass "
            "codec= to spawn, or take codec= away from the Plugin"
        )
    if interface is not None:
        check_interface(name, interface, {one["name"]: one for one in methods})


def _wrong_with(methods: Any, threads: Any) -> str:
    """What a hello of somebody else's making says wrongly; "": nothing."""
    if not isinstance(methods, list | tuple):
        return f"its methods are a {type(methods).__name__}, not a list"
    names = set()
    for number, one in enumerate(methods):
        if not isinstance(one, dict):
            return f"method {number} is a {type(one).__name__}, not a dict"
        if not isinstance(one.get("name"), str):
            return f"method {number} has no name"
        if one.get("kind") not in ("call", "stream"):
            return f"the kind of {one['name']!r} is {one.get('kind')!r}, not 'call' or 'stream'"
        if one["name"] in names:
            return f"there are two methods {one['name']!r}"
        names.add(one["name"])
    if not isinstance(threads, int) or threads < 1:
        return f"threads is {threads!r}, not a whole number from 1"
    return ""
