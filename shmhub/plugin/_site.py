"""What all plugins of one PluginHost share: the hub, the engine, the threads.

Owns them all and ends them in order. Knows of replicas only which link is whose.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from shmhub._errors import HubClosedError, HubForkedError, PeerGoneError
from shmhub._host import HubHost
from shmhub._rpc import Engine, Link, Server
from shmhub.plugin._events import PluginEvent
from shmhub.plugin._loop import Loop
from shmhub.plugin._output import OutputPump
from shmhub.plugin._workers import Workers

if TYPE_CHECKING:
    from shmhub._config import HubConfig
    from shmhub._peer_info import PeerInfo
    from shmhub.plugin._replica import Replica
    from shmhub.plugin._replicas import Replicas

__all__ = ["Site"]

logger = logging.getLogger("shmhub.plugin")

# How long user callbacks may take to return when everything else has ended.
_CALLBACK_SECONDS = 5.0

_SITES: weakref.WeakSet[Site] = weakref.WeakSet()


class Site:
    """Made and closed by PluginHost."""

    def __init__(
        self,
        config: HubConfig | None,
        path: str | os.PathLike[str] | None,
        *,
        callback_threads: int,
        hold_limit: int | None,
        on_event: Callable[[PluginEvent], object] | None,
        echo: bool,
    ) -> None:
        self.on_event = on_event
        self.all: list[Replicas] = []
        self._taking = threading.RLock()  # once more by a signal handler that closes the host
        self._closing = False
        self.closed = False
        self.forked = False
        self._replicas: dict[Link, Replica] = {}
        self.callbacks = Server(threads=callback_threads, name="host")
        with contextlib.ExitStack() as undo:
            self.hub = HubHost.create(path, config)
            undo.callback(self.hub.close)
            self.loop = Loop("shmhub plugins")
            undo.callback(self.loop.close)
            self.pump = OutputPump(echo=echo)
            undo.callback(self.pump.close, 0.0)
            self.workers = Workers(callback_threads, "shmhub done-callback")
            self.events = Workers(1, "shmhub plugin event")
            self.engine = Engine(
                self.hub,
                callbacks=self.callbacks,
                hold_limit=hold_limit,
                callback_threads=callback_threads,
                on_hello=self._on_hello,
                on_lost=self._on_lost,
                on_violation=self._on_violation,
            )
            undo.callback(self.engine.close)
            self.engine.start()
            undo.pop_all()
        _SITES.add(self)

    def open_link(self, info: PeerInfo, codec: Any, replica: Replica) -> Link:
        """A link for a process that is about to be started, and whose it is."""
        link = self.engine.open_link(info, codec=codec)
        self._replicas[link] = replica
        return link

    def forget_link(self, link: Link) -> None:
        self._replicas.pop(link, None)

    def waiting(self) -> AbstractContextManager[None]:
        """Around a wait in a callback: another callback may run in its place."""
        return self.engine._workers.waiting()

    def post(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have the loop run it; nothing happens when the loop is closed."""
        with contextlib.suppress(HubClosedError):
            self.loop.post(function, *arguments)

    def state_changed(self, replica: Replica) -> None:
        for one in list(self.all):  # those that have ended go meanwhile
            if replica in one.replicas:
                one.state_changed()

    def tell(self, event: PluginEvent) -> None:
        if self.on_event is not None:
            self.events.post(self.on_event, event)

    def check_not_forked(self, what: str) -> None:
        if self.forked:
            raise HubForkedError(
                f"{what}: this PluginHost belongs to the process that this one was forked from; "
                "make one here"
            )

    def take(self, made: Replicas) -> None:
        """A plugin is about to be started: whoever closes this ends it, too.

        Raises:
            HubClosedError: that has begun already.
        """
        with self._taking:
            if self._closing:
                raise HubClosedError(f"spawn {made.name!r}: this PluginHost is closed")
            self.all.append(made)

    def begin_close(self) -> list[Replicas]:
        """Take no more plugins; those that are to be ended before `close`."""
        with self._taking:
            self._closing = True
            return list(self.all)

    def close(self) -> None:
        """End the threads and the hub. All replicas have ended by now."""
        with self._taking:
            if self.closed or self.forked:
                return
            self.closed = True
        _SITES.discard(self)
        self.engine.close()
        self.loop.close()
        self.pump.close(_CALLBACK_SECONDS)
        self.events.close(_CALLBACK_SECONDS)
        self.workers.close(_CALLBACK_SECONDS)
        self.hub.close()

    # In whichever thread reads

    def _on_hello(self, link: Link) -> None:
        self.post(self._hello, link)

    def _on_lost(self, link: Link, gone: PeerGoneError) -> None:
        self.post(self._lost, link, gone)

    def _on_violation(self, link: Link, what: str) -> None:
        self.post(self._violated, link, what)

    # In the loop

    def _hello(self, link: Link) -> None:
        replica = self._replicas.get(link)
        if replica is not None:
            replica.hello_came(link)

    def _lost(self, link: Link, gone: PeerGoneError) -> None:
        replica = self._replicas.get(link)
        if replica is not None:
            replica.link_lost(link, gone)

    def _violated(self, link: Link, what: str) -> None:
        replica = self._replicas.get(link)
        if replica is not None:
            replica.kill(f"it sent what no plugin may send: {what}", restart=True)


def _after_fork() -> None:
    """In a forked child nothing of this runs: say so instead of waiting for ever."""
    for site in list(_SITES):
        site.forked = True
        for one in site.all:
            one.group.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
