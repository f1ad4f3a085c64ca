"""The plugin's side: `shmhub.Plugin` collects methods and serves them to the host.

Attaching is `_core`'s and `HubPeer`'s, executing calls `_rpc`'s; here are names, hooks, signals and
the end of the process.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar, TypeVar, overload

from shmhub._argv import OPTIONS
from shmhub._errors import HostGoneError, NotAttachedError
from shmhub._native import core
from shmhub._peer import HubPeer
from shmhub._rpc import CallLost, Link, Method, PeerEngine, Server, get_codec
from shmhub._transport import HubPeerTransport
from shmhub._version import __version__
from shmhub.plugin._interface import parameters_of
from shmhub.plugin._names import HANDLE_NAMES, check_method_name

__all__ = ["CallbackProxy", "Plugin", "take_options"]

logger = logging.getLogger("shmhub.plugin")

F = TypeVar("F", bound=Callable[..., Any])
Hook = TypeVar("Hook", bound=Callable[[], Any])

OPTIONS_VARIABLE = "SHMHUB_PLUGIN_OPTIONS"
RPC_VERSION = 1
# When the host has died, the plugin has so many seconds to leave in good order.
GRACE_SECONDS = 5

WRONG_USE = 2


def take_options() -> dict[str, Any]:
    """What the host said beside the hub's arguments; what this program starts shall not see it."""
    text = os.environ.pop(OPTIONS_VARIABLE, "")
    try:
        options = json.loads(text) if text else {}
    except ValueError:
        options = {}
    return options if isinstance(options, dict) else {}


class Plugin:
    """Functions that a host may call.

    ::

        plugin = shmhub.Plugin("image")

        @plugin.method(idempotent=True)
        def resize(png: memoryview, *, width: int) -> bytes: ...

        if __name__ == "__main__":
            plugin.run()

    Args:
        name: for people; the host may give it another one.
        threads: how many calls run at a time. With 1, they run in the thread that called `run`.
        codec: one of your own, see docs/plugins.md; None: whatever the host uses.

    Attributes:
        host: calls back, see `CallbackProxy`.
        name: as the host calls it, once it runs.
    """

    _given_options: ClassVar[dict[str, Any] | None] = None  # by our bootstrap

    def __init__(self, name: str = "plugin", *, threads: int = 1, codec: Any = None) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"Plugin: {name!r} is no name; use it as Plugin('image')")
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
            raise ValueError(f"Plugin: threads must be a whole number from 1, not {threads!r}")
        self.name = name
        self.threads = threads
        self.host = CallbackProxy(self)
        self._codec = None if codec is None else get_codec(codec)
        self._methods: dict[str, Method] = {}
        self._startup: list[Callable[[], Any]] = []
        self._shutdown: list[Callable[[], Any]] = []
        self._engine: PeerEngine | None = None
        self._has_run = False

    # What it offers

    @overload
    def method(self, function: F, /) -> F: ...
    @overload
    def method(
        self, function: None = None, /, *, name: str | None = None, idempotent: bool = False
    ) -> Callable[[F], F]: ...

    def method(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        idempotent: bool = False,
    ) -> Any:
        """Offer a function: plain, `async def`, generator or async generator. A decorator.

        The function comes back unchanged, so it can be tested without a process.

        Args:
            name: to call it by; None: its own.
            idempotent: running it twice does no harm: when the plugin dies of a call, the call is
                sent again.

        Raises:
            ValueError: the name cannot be called, is taken, or is one of the handle's.
        """
        if function is None:
            return lambda one: self._add(one, name, idempotent)
        return self._add(function, name, idempotent)

    def _add(self, function: F, name: str | None, idempotent: bool) -> F:
        if not callable(function):
            raise TypeError(
                f"@plugin.method: {function!r} is not a function; use @plugin.method or "
                "@plugin.method(name=..., idempotent=...)"
            )
        called = name if name is not None else getattr(function, "__name__", "?")
        check_method_name(
            called, chosen=name is not None, what="@plugin.method", taken=HANDLE_NAMES
        )
        if called in self._methods:
            raise ValueError(f"@plugin.method: there is a method {called!r} already")
        self._methods[called] = Method.of(function, name=called, idempotent=idempotent)
        return function

    def on_startup(self, function: Hook) -> Hook:
        """Have it called before the first call is taken, in the thread that called `run`."""
        self._startup.append(_checked_hook("on_startup", function))
        return function

    def on_shutdown(self, function: Hook) -> Hook:
        """Have it called when no call runs any more; the last added is called first."""
        self._shutdown.append(_checked_hook("on_shutdown", function))
        return function

    # Serving

    def run(self, argv: list[str] | None = None) -> None:
        """Attach to the host that has started this program, and serve until it is over.

        Returns when the host asks to leave, is gone, or SIGTERM came: what runs is finished first.

        Args:
            argv: None: those of this program.

        Raises:
            SystemExit: (status 2) this program was started by hand; it says how it is meant.
            NotAttachedError, HubFormatError, OSError: it cannot attach.
        """
        arguments = sys.argv[1:] if argv is None else argv
        if self._has_run:
            raise RuntimeError(f"plugin {self.name!r}: run() was called already")
        if not any(one.partition("=")[0] in OPTIONS for one in arguments):
            sys.stderr.write(self._what_it_is())
            raise SystemExit(WRONG_USE)
        given = Plugin._given_options
        options = take_options() if given is None else given
        # First of all: whatever happens from here on, this process ends with its host.
        core.die_with_parent(0, GRACE_SECONDS)
        self.name = options.get("name") or self.name
        self.threads = options.get("threads") or self.threads
        codec = self._codec or get_codec(options.get("codec") or "pickle")
        peer, doorbell = HubPeer.from_argv(arguments)
        hang_up = _HangUp(doorbell)  # now: later the doorbell is its transport's
        with peer, _signals(self._stop):
            transport = HubPeerTransport(peer, doorbell, self.name)
            with transport, hang_up:  # its copy of the doorbell goes before the host is told
                self._has_run = True
                self._serve(transport, codec)

    def _serve(self, transport: HubPeerTransport, codec: Any) -> None:
        server = Server(self._methods, threads=self.threads, name=self.name)
        hello = self._hello(codec)
        engine = PeerEngine(transport, server, hello=hello, codec=codec)
        self._engine = engine
        try:
            for hook in self._startup:
                hook()
            engine.run()
        except HostGoneError as gone:
            logger.warning("plugin %s: %s", self.name, gone)
        finally:
            for hook in reversed(self._shutdown):
                try:
                    hook()
                except Exception:
                    logger.exception("a shutdown hook of plugin %s raised", self.name)
                    _say(f"a shutdown hook of plugin {self.name} raised:", sys.exc_info())
            self._engine = None

    def _stop(self) -> None:
        """SIGTERM: finish what runs, then leave."""
        engine = self._engine
        if engine is None:  # not serving yet, or not any more
            raise SystemExit(128 + signal.SIGTERM)
        engine.stop()

    def _hello(self, codec: Any) -> dict[str, Any]:
        return {
            "shmhub": __version__,
            "rpc": RPC_VERSION,
            "python": sys.version.split()[0],
            "pid": os.getpid(),
            "name": self.name,
            "threads": self.threads,
            "codec": codec.name,
            "methods": [
                {**one.described(), "parameters": parameters_of(one.function)}
                for one in self._methods.values()
            ],
        }

    def _what_it_is(self) -> str:
        program = os.path.basename(sys.argv[0]) or "plugin.py"
        methods = "".join(f"    {one.name}{one.signature}\n" for one in self._methods.values())
        return (
            f"{program} is a plugin of shmhub ({self.name!r}), with these methods:\n"
            f"{methods or '    none yet'}\n"
            "It serves a host program, which starts it:\n\n"
            "    import shmhub\n\n"
            "    with shmhub.PluginHost() as host:\n"
            f"        {self.name if self.name.isidentifier() else 'plugin'} = "
            f"host.spawn({program!r})\n"
        )

    def __repr__(self) -> str:
        return f"<Plugin {self.name!r} with {', '.join(self._methods) or 'no methods'}>"


class CallbackProxy:
    """`plugin.host`: the host's callbacks as functions, `plugin.host.lookup(key)`.

    They raise what the callback raised, as a RemoteError, and HostGoneError. Safe from several
    threads.
    """

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call and wait; all keywords reach the callback."""
        try:
            return self._link(name).call(name, args, kwargs)
        except CallLost as lost:
            raise HostGoneError(f"callback {name}(): the host is gone") from lost

    def notify(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        """Call and forget."""
        try:
            self._link(name).notify(name, args, kwargs)
        except CallLost as lost:
            raise HostGoneError(f"callback {name}(): the host is gone") from lost

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"the host has no callback {name!r}", name=name)

        def callback(*args: Any, **kwargs: Any) -> Any:
            return self.call(name, *args, **kwargs)

        callback.__name__ = name
        return callback

    def _link(self, name: str) -> Link:
        engine = self._plugin._engine
        if engine is None:
            raise NotAttachedError(
                f"callback {name}(): plugin {self._plugin.name!r} does not run; plugin.host works "
                "from its methods and hooks, while plugin.run() serves"
            )
        return engine.host


class _HangUp:
    """Ends this process when the host is gone and the process does not leave by itself.

    For what the kernel's signal does not reach: a plugin that a wrapper (`uv run`) has started, or
    one whose method never returns.
    """

    def __init__(self, doorbell: core.Doorbell) -> None:
        self._doorbell = os.dup(doorbell.fileno())
        self._left = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._wait, name="shmhub host's end", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_exception: object) -> None:
        os.eventfd_write(self._left, 1)
        self._thread.join()
        os.close(self._left)
        os.close(self._doorbell)

    def _wait(self) -> None:
        import select

        poller = select.poll()
        poller.register(self._left, select.POLLIN)
        poller.register(self._doorbell, 0)  # its hang-up alone
        if any(fd == self._left for fd, _ in poller.poll()):
            return
        poller.unregister(self._doorbell)
        if not poller.poll(GRACE_SECONDS * 1000):
            _say("the host is gone and a call does not end: this plugin ends itself", None)
            os._exit(1)


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM leaves in good order; SIGINT of the terminal is the host's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_sigterm(_number: int, _frame: FrameType | None) -> None:
        stop()

    before = signal.signal(signal.SIGTERM, on_sigterm), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before[0] if before[0] is not None else signal.SIG_DFL)
        signal.signal(signal.SIGINT, before[1] if before[1] is not None else signal.SIG_DFL)


def _checked_hook(what: str, function: Hook) -> Hook:
    if not callable(function):
        raise TypeError(f"@plugin.{what}: {function!r} is not a function")
    if inspect.iscoroutinefunction(function):
        raise TypeError(
            f"@plugin.{what}: {function.__qualname__} is an async function; hooks are plain ones: "
            "they run before and after the event loop of async methods"
        )
    return function


def _say(text: str, exception: Any) -> None:
    import traceback

    sys.stderr.write(f"{text}\n")
    if exception is not None:
        traceback.print_exception(*exception)
    sys.stderr.flush()
