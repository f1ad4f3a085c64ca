"""The host's side of RPC: one transport for all peers, a link for each life of each of them."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from shmhub._errors import CodecError, HubClosedError, PeerGoneError
from shmhub._host import HubHost
from shmhub._peer_info import PeerInfo
from shmhub._rpc import _wire as wire
from shmhub._rpc._codec import Codec, get_codec
from shmhub._rpc._endpoint import Endpoint, decode_plain
from shmhub._rpc._link import Link
from shmhub._rpc._payload import INLINE_MAX, Encoded, encode
from shmhub._rpc._pool import Workers
from shmhub._rpc._posting import LOST
from shmhub._rpc._reading import Waiter
from shmhub._rpc._server import Server
from shmhub._transport import HubHostTransport
from shmhub._version import __version__

__all__ = ["Engine"]

logger = logging.getLogger("shmhub")


class Engine(Endpoint):
    """All conversations of one host. Safe from several threads.

    Args:
        host: stays yours; close the engine first.
        callbacks: what plugins may call here. They run on threads of the engine's; one that waits
            for a plugin's answer does not count against `callback_threads`.
        hold_limit: bytes of received slots held here beyond which values are copied to private
            memory; None: half of what the hub may take.
        on_hello: a peer has said who it is: calls may begin. Both are called by whoever reads:
            short, never user code.
        on_lost: a link is over, cleanly or not (`error.clean`); its calls are done by then.
        on_violation: a message of that peer was lost, because the hub's memory says what no honest
            peer writes: whoever waits for it may wait for ever, so the peer is to be replaced.
    """

    bounds_queues = True

    def __init__(
        self,
        host: HubHost,
        *,
        callbacks: Server | None = None,
        hold_limit: int | None = None,
        callback_threads: int = 4,
        name: str = "host",
        on_hello: Callable[[Link], None] | None = None,
        on_lost: Callable[[Link, PeerGoneError], None] | None = None,
        on_violation: Callable[[Link, str], None] | None = None,
    ) -> None:
        transport = HubHostTransport(host)
        transport.set_hold_limit(
            host.config.max_bytes // 2
            if hold_limit is None and host.config.max_bytes
            else 2**63
            if hold_limit is None
            else hold_limit
        )
        super().__init__(transport, callbacks or Server(name=name), name="shmhub-lookout")
        self.host = host
        self.name = name
        self._links: dict[int, list[Link]] = {}  # by peer id; the oldest life first
        self._links_lock = threading.Lock()
        self._on_hello = on_hello
        self._on_lost = on_lost
        self._on_violation = on_violation
        host._on_violation = self._violated
        self.reading.on_violation = host._log_events
        self._workers = Workers(callback_threads, name="shmhub-callback")
        self._handlers[wire.HELLO] = self._hello

    def start(self) -> None:
        """Let the engine's thread begin: it reads when nobody else does."""
        self.reading.start()

    def close(self, timeout: float | None = 5.0) -> None:
        """End all conversations; idempotent. Closes the transport, not the host."""
        self.host._on_violation = None
        self.transport.close()
        self.reading.end(HubClosedError("the engine was closed"))
        self.reading.join(timeout)
        self._workers.close(timeout)
        self.close_threads(timeout)

    def open_link(self, info: PeerInfo, *, codec: str | Codec = "pickle") -> Link:
        """A conversation with a peer that has a place in the hub; before its process is started.

        Raises:
            HubClosedError: the engine is closed.
        """
        life = (secrets.randbits(22) & wire.LIFE_MASK) << wire.LIFE_SHIFT
        link = Link(self, info.peer_id, info.name, life=life, codec=get_codec(codec))
        link.epoch = info.epoch
        link.blocking = self._workers.waiting
        with self._links_lock:
            if self.reading.ended is not None:
                raise HubClosedError(f"open_link({info!r}): the engine is closed")
            links = self._links.setdefault(info.peer_id, [])
            for earlier in links:
                earlier.shut()  # its id has a new owner: nothing more must go there
            links.append(link)
        return link

    def callbacks_changed(self) -> None:
        """Tell the peers which callbacks there are now, after `Server.add`."""
        with self._links_lock:
            links = [link for links in self._links.values() for link in links if link.hello]
        for link in links:
            with suppress(*LOST), link.welcoming:
                link.send(wire.WELCOME, 0, self._welcome(link))

    # ---- what has come -------------------------------------------------------------------------

    def link_of(self, frame: Any) -> Link | None:
        links = self._links.get(frame.peer_id)
        return links[0] if links else None  # all of an earlier life comes before a later one

    def _welcome(self, link: Link) -> Encoded:
        return encode(
            {
                "shmhub": __version__,
                "rpc": wire.VERSION,
                "name": link.name,
                "host": self.name,
                "codec": link.codec.name,
                "life": link.life >> wire.LIFE_SHIFT,
                "callbacks": self.server.described(),
            },
            link.plain,
        )

    def _hello(self, link: Link, frame: Any) -> None:
        if link.hello is not None:
            return
        try:
            hello = decode_plain(link, frame)
            methods = hello.get("methods")
            if type(methods) is not list or not all(
                type(one) is dict and type(one.get("name")) is str for one in methods
            ):
                raise CodecError("its methods are not a list of dicts with names")
        except CodecError as error:
            logger.error("%s said hello in a way that cannot be read: %s", link.name, error)
            hello, methods = {"rpc": None, "problem": str(error)}, []
        link.set_methods(methods)
        link.hello = hello
        if not self._welcome_at_once(link):
            # It may have to wait for a slot, which whoever reads must not.
            self._workers.submit(self._welcome_patiently, link)

    def _welcome_at_once(self, link: Link) -> bool:
        if not link.welcoming.acquire(blocking=False):
            return False
        try:
            welcome = self._welcome(link)
            if welcome.size > INLINE_MAX:
                return False
            link.tell(wire.WELCOME, 0, data=welcome.joined())
        finally:
            link.welcoming.release()
        self._ready(link)
        return True

    def _welcome_patiently(self, link: Link) -> None:
        try:
            with link.blocking(), link.welcoming:
                link.send(wire.WELCOME, 0, self._welcome(link))
        except LOST:
            return
        self._ready(link)

    def _ready(self, link: Link) -> None:
        if self._on_hello is not None:
            self._on_hello(link)

    def accept(self, link: Link, frame: Any) -> None:
        method = self.server.method_of(frame)
        if method is not None and method.is_async:
            self.loop.submit(self.server.execute_async, link, frame)
        else:
            self._workers.submit(self.server.execute, link, frame)

    def wait_for(self, waiter: Waiter, deadline: float | None) -> None:
        with self._workers.waiting():
            super().wait_for(waiter, deadline)

    # ---- ends ----------------------------------------------------------------------------------

    def gone(self, error: PeerGoneError) -> None:
        if error.peer_id is None:
            return
        with self._links_lock:
            links = self._links.get(error.peer_id, [])
            found = next((one for one in links if one.epoch == error.epoch), None)
        if found is None:
            return
        found.lose(error, frozenset(error.undelivered))
        with self._links_lock:
            if found not in links:
                return  # told before
            links.remove(found)
            if not links:
                del self._links[error.peer_id]
        if self._on_lost is not None:
            self._on_lost(found, error)

    def _violated(self, peer_id: int, epoch: int, what: str) -> None:
        for link in self._links.get(peer_id, ()):
            if link.epoch == epoch and self._on_violation is not None:
                self._on_violation(link, what)

    def _ended(self, error: BaseException) -> None:
        with self._links_lock:
            links = [link for links in self._links.values() for link in links]
            self._links.clear()
        for link in links:
            link.lose(error, frozenset())
            if self._on_lost is not None and not isinstance(error, HubClosedError):
                gone = PeerGoneError(
                    f"{link.name}: the host cannot receive any more: {error}",
                    peer_id=link.peer_id,
                    epoch=link.epoch,
                )
                self._on_lost(link, gone)
