"""The plugin's side of RPC: one conversation, with the host."""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Literal

from shmhub._errors import (
    CodecError,
    HostGoneError,
    HubClosedError,
    PeerGoneError,
    ProtocolViolation,
)
from shmhub._native import core
from shmhub._rpc import _wire as wire
from shmhub._rpc._codec import Codec, get_codec
from shmhub._rpc._current import CurrentCall, current
from shmhub._rpc._endpoint import Endpoint, decode_plain
from shmhub._rpc._link import Link
from shmhub._rpc._payload import encode
from shmhub._rpc._pool import Workers
from shmhub._rpc._reading import ENDS, Waiter
from shmhub._rpc._server import Server
from shmhub._transport import HubPeerTransport
from shmhub._version import __version__

__all__ = ["PeerEngine"]

logger = logging.getLogger("shmhub")


class PeerEngine(Endpoint):
    """Serves a host. Safe from several threads; `run` is for one.

    With `server.threads` of 1 the thread of `run` executes the calls itself, one after the other.
    While it waits for the host (a callback) it executes only what is called in the course of that
    call, however deep; everything else waits. With more, so many threads do the same. Coroutine
    functions run on one event loop in a thread of its own, all at once.

    Args:
        transport: stays yours; close it when `run` has returned.
        server: what the host may call.
        hello: more for the handshake: plain data.
        codec: as the host's for this peer.
        hold_limit: bytes of received slots held here beyond which arguments are copied to private
            memory; None: no limit but the share of each size class.
    """

    def __init__(
        self,
        transport: HubPeerTransport,
        server: Server,
        *,
        hello: dict[str, Any] | None = None,
        codec: str | Codec = "pickle",
        hold_limit: int | None = None,
    ) -> None:
        super().__init__(transport, server, name="shmhub-lookout")
        if hold_limit is not None:
            transport.set_hold_limit(hold_limit)
        self.host = Link(self, 0, "host", life=wire.FROM_PEER, codec=get_codec(codec))
        self._hello = hello or {}
        self._life: int | None = None
        self._short: Any = None
        self._work = Waiter()
        self._work.tasks = deque()
        self._nesting = threading.Lock()
        self._workers = (
            Workers(server.threads, name="shmhub-worker") if server.threads > 1 else None
        )
        self._handlers[wire.WELCOME] = self._welcome
        self._handlers[wire.BYE] = self._bye
        self.welcomed = threading.Event()
        self._why: Literal["bye", "stopped"] | None = None

    # ---- serving -------------------------------------------------------------------------------

    def run(self) -> Literal["bye", "gone", "stopped"]:
        """Say hello and serve until the host says goodbye or is gone, or `stop`; what runs then
        ends first.

        Returns:
            why: the host said goodbye; it is gone, cleanly or not; `stop` was called.
        """
        self.start()
        work = self._work
        tasks = work.tasks
        assert tasks is not None
        link, execute, wait = self.host, self.server.execute, self.reading.wait
        serve = self._callee(tasks) if self._workers is None else None
        while not work.done:
            while tasks:
                execute(link, tasks.popleft())
            if serve is not None:
                try:
                    serve()
                except (*ENDS, ProtocolViolation) as error:
                    self.reading.failed(error)
            wait(work, None)  # dispatched with the turn: a cancel must not overtake its call
            if self.reading.ended is not None:
                break
        self.server.stopping = True
        while tasks:
            execute(link, tasks.popleft())  # which refuses it
        self.server.stop(None)
        if self._workers is not None:
            self._workers.close()
        self.close_threads(None)
        return self._why or "gone"

    def _callee(self, tasks: deque[Any]) -> Callable[[], None] | None:
        """The short way for calls that fit into one message each way; None: there is none."""
        link, server = self.host, self.server
        if not link.codec.takes_plain:
            return None

        def make_call(number: int, call_id: int, deadline: float | None, tree: int) -> CurrentCall:
            return CurrentCall(link, server.table[number].name, call_id, deadline, tree)

        def raised(
            call: CurrentCall, number: int, error: BaseException, args: tuple[Any, ...]
        ) -> None:
            server.answer_raised(link, call, server.table[number], error, args)

        def execute(frame: Any) -> None:
            link.queued[frame.message_id] = frame
            server.execute(link, frame)

        self._short = core.Callee(
            self.transport,
            self.reading.turn,
            self.reading.inbox,
            tuple(
                None if one.is_async or one.kind != "call" else (one.function, one.views or None)
                for one in server.table
            ),
            self._work,
            tasks,
            self.nested,
            link.running,
            current,
            make_call,
            functools.partial(server.answer, link),
            raised,
            execute,
        )
        if self._life is not None:
            self._short.set_life(self._life)
        serve: Callable[[], None] = self._short.serve
        return serve

    def start(self) -> None:
        """Say hello and let the lookout begin; `run` does it."""
        self.reading.start()
        hello = {
            "shmhub": __version__,
            "rpc": wire.VERSION,
            "threads": self.server.threads,
            "codec": self.host.codec.name,
            "methods": self.server.described(),
            **self._hello,
        }
        with suppress(HostGoneError, HubClosedError):  # the reading finds out
            self.host.send(wire.HELLO, 0, encode(hello, self.host.plain))

    def stop(self) -> None:
        """Let `run` return after what runs; from any thread, and from a signal handler."""
        self._why = self._why or "stopped"
        self.server.stopping = True
        self._work.done = True
        self._work.wake()
        self.transport.interrupt()

    # ---- what has come -------------------------------------------------------------------------

    def link_of(self, frame: Any) -> Link | None:
        return self.host

    def _welcome(self, link: Link, frame: Any) -> None:
        try:
            welcome = decode_plain(link, frame)
            link.set_methods(welcome["callbacks"])
            self._life = welcome["life"]
            if self._short is not None:
                self._short.set_life(self._life)
        except (CodecError, KeyError, TypeError) as error:
            logger.error("the host's welcome cannot be read: %s", error)
            return
        link.hello = welcome
        link.name = str(welcome.get("host", "host"))
        self.welcomed.set()

    def _bye(self, link: Link, frame: Any) -> None:
        self._why = self._why or "bye"
        self.server.stopping = True
        self._work.done = True
        self._work.wake()

    def accept(self, link: Link, frame: Any) -> None:
        life = (frame.message_id >> wire.LIFE_SHIFT) & wire.LIFE_MASK
        if self._life is not None and life != self._life:
            self.server.refuse(link, frame, wire.STOPPING, "it was meant for an earlier process")
            return
        tree = frame.flags >> wire.TREE_SHIFT
        if tree in self.nested:
            with self._nesting:
                waiters = self.nested.get(tree)
                if waiters:
                    waiter = waiters[-1]
                    assert waiter.tasks is not None
                    waiter.tasks.append(frame)
                    waiter.wake()
                    return
        method = self.server.method_of(frame)
        if method is not None and method.is_async:
            self.loop.submit(self.server.execute_async, link, frame)
        elif self._workers is not None:
            self._workers.submit(self.server.execute, link, frame)
        else:
            assert self._work.tasks is not None
            self._work.tasks.append(frame)
            self._work.wake()

    def wait_for(self, waiter: Waiter, deadline: float | None) -> None:
        """As `Endpoint.wait_for`; runs what is called here in the course of the call meanwhile."""
        within = current.get()
        if within is None:
            super().wait_for(waiter, deadline)
            return
        tree = within.tree
        waiter.tasks = deque()
        with self._nesting:
            self.nested.setdefault(tree, []).append(waiter)
        # What came before this waiter was known waits for a thread like any other call, which may
        # be this one. Whoever begins it first has it (`Server._admit`).
        if self.host.queued:
            for frame in list(self.host.queued.values()):
                if frame.flags >> wire.TREE_SHIFT == tree:
                    waiter.tasks.append(frame)
        try:
            while not waiter.done and self.reading.ended is None:
                super().wait_for(waiter, deadline)
                while waiter.tasks:
                    self.server.execute(self.host, waiter.tasks.popleft())
                if deadline is not None and monotonic() >= deadline:
                    return
        finally:
            with self._nesting:
                waiters = self.nested[tree]
                waiters.remove(waiter)
                if not waiters:
                    del self.nested[tree]
                left, waiter.tasks = waiter.tasks, None
            for frame in left:
                self.accept(self.host, frame)

    def gone(self, error: PeerGoneError) -> None:
        raise AssertionError("a plugin has no peers")

    def _ended(self, error: BaseException) -> None:
        self.host.lose(error, frozenset())
        self._work.done = True
        self._work.wake()
