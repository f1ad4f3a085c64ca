"""The synchronous transports: who talks to whom, and how a conversation ends.

Sending and receiving is `_core.Transport`'s; here are the three constructors, iteration, context
management and the callback for peers that are gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from shmhub._errors import HostGoneError, PeerGoneError
from shmhub._host import HubHost
from shmhub._native import core
from shmhub._peer import HubPeer
from shmhub._statistics import TransportStatistics

if TYPE_CHECKING:
    from shmhub._protocols import Transport

__all__ = ["HubHostPeerTransport", "HubHostTransport", "HubPeerTransport"]

logger = logging.getLogger("shmhub")

OnPeerGone = Callable[[PeerGoneError], object]


class _SyncTransport(core.Transport):
    """What all three share. Safe from several threads; waiting releases the GIL.

    Iterating gives frames until the other side closes in good order.
    """

    def statistics(self) -> TransportStatistics:
        """What this transport has done since it was made."""
        return TransportStatistics.from_core(self.raw_statistics())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> core.Frame:
        try:
            return self.recv()
        except (HostGoneError, PeerGoneError) as gone:
            if gone.clean:
                raise StopIteration from gone
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}{' closed' if self.closed else ''}>"


class HubHostPeerTransport(_SyncTransport):
    """The host's conversation with one peer, bound to this life of its id.

    Args:
        host: stays yours.
        peer_id: from `HubHost.add_peer`.
        doorbell: `PeerInfo.doorbell`; belongs to the transport from here on.
        writable: whether the payloads of frames may be written to.

    Raises:
        PeerStateError: that peer has a transport already.
        ValueError: the doorbell is another peer's.
    """

    def __init__(
        self, host: HubHost, peer_id: int, doorbell: core.Doorbell, *, writable: bool = False
    ) -> None:
        if doorbell.peer_id != peer_id:
            raise ValueError(
                f"HubHostPeerTransport: the doorbell is that of peer {doorbell.peer_id}, "
                f"not of peer {peer_id}; pass info.peer_id and info.doorbell of one PeerInfo"
            )
        super().__init__(host, doorbell, f"peer-{peer_id}", writable)


class HubHostTransport(_SyncTransport):
    """The host's conversation with all peers, later ones too.

    `recv` gives frames of any (`frame.peer_id` says whose), `send` needs `to=`. Peers that have
    a transport of their own are left out.

    A peer that is gone, cleanly or not, is told once, after everything that it sent: without
    `on_peer_gone` the receive raises PeerGoneError, and the next one goes on with the other peers;
    with it the callback gets that error, in the thread that receives, and the receive goes on.
    Iteration passes over peers that closed in good order.

    Args:
        host: stays yours.
        on_peer_gone: called with a PeerGoneError. What it raises, the receive raises.
        writable: whether the payloads of frames may be written to.
    """

    def __init__(
        self,
        host: HubHost,
        *,
        on_peer_gone: OnPeerGone | None = None,
        writable: bool = False,
    ) -> None:
        super().__init__(host, None, "host", writable)
        if on_peer_gone is not None:
            self.set_on_gone(_with_error(on_peer_gone))

    def __next__(self) -> core.Frame:
        while True:
            try:
                return self.recv()
            except PeerGoneError as gone:
                if not gone.clean:
                    raise


def _with_error(on_peer_gone: OnPeerGone) -> Callable[[int, int, bool, int, tuple[int, ...]], None]:
    """The core calls back with numbers, the application's callback takes the exception."""

    def tell(peer_id: int, epoch: int, clean: bool, pid: int, undelivered: tuple[int, ...]) -> None:
        how = "left in good order" if clean else "died"
        on_peer_gone(
            PeerGoneError(
                f"peer {peer_id} (pid {pid}) {how}, "
                f"{len(undelivered)} messages to it were never received",
                peer_id=peer_id,
                epoch=epoch,
                pid=pid,
                clean=clean,
                undelivered=undelivered,
            )
        )

    return tell


class HubPeerTransport(_SyncTransport):
    """A plugin's conversation with its host.

    Constructing it completes the attach: it proves to the host who this process is and waits for
    the answer.

    Args:
        peer: registered; stays yours.
        doorbell: belongs to the transport from here on.
        name: of this transport, for people.
        writable: whether the payloads of frames may be written to.

    Raises:
        NotAttachedError: the host does not expect this peer (any more).
        HostGoneError: the host is gone.
    """

    def __init__(
        self, peer: HubPeer, doorbell: core.Doorbell, name: str, *, writable: bool = False
    ) -> None:
        super().__init__(peer, doorbell, name, writable)
        self._own_peer: HubPeer | None = None
        logger.info("Connected to host via hub SHM (peer id %d)", peer.peer_id)

    @classmethod
    def from_argv(
        cls, argv: Sequence[str] | None = None, *, name: str | None = None, writable: bool = False
    ) -> Self:
        """Attach as the command line says: all that a plugin needs to begin with.

        The transport owns what it opened: closing it leaves the hub.

        Args:
            argv: None: those of this program; foreign ones are left alone.
            name: None: `peer-N`.

        Raises:
            NotAttachedError: an argument is missing or wrong, or the host does not expect it.
            HubFormatError, HostGoneError, OSError
        """
        peer, doorbell = HubPeer.from_argv(argv)
        try:
            transport = cls(peer, doorbell, name or f"peer-{peer.peer_id}", writable=writable)
        except BaseException:
            doorbell.close()
            peer.close()
            raise
        transport._own_peer = peer
        return transport

    def close(self) -> None:
        """Leave in good order; wakes threads that wait here. Idempotent."""
        super().close()
        if self._own_peer is not None:
            self._own_peer.close()


if TYPE_CHECKING:  # all of them are what the protocol asks for
    _satisfying: tuple[type[Transport], ...] = (
        HubHostPeerTransport,
        HubHostTransport,
        HubPeerTransport,
    )
