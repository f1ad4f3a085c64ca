"""The host's side of a hub: create it, give out places, see who is there.

Thin over `_core.Host`, which owns the memory and the service thread; here are configuration,
logging of what the service thread saw, and results with names.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from shmhub._config import HubConfig
from shmhub._fsck import FsckReport
from shmhub._native import core
from shmhub._peer_info import PeerInfo
from shmhub._statistics import HubStatistics, PeerStatus, peer_name

__all__ = ["HubHost"]

logger = logging.getLogger("shmhub")

PathLike = str | os.PathLike[str]

# What the service thread tells, as (level, text); the arguments are id, epoch, pid and detail.
EVENTS: dict[str, tuple[int, str]] = {
    "attached": (logging.DEBUG, "peer %d (epoch %d, pid %d) attached%s"),
    "left": (logging.DEBUG, "peer %d (epoch %d, pid %d) left in good order%s"),
    "died": (logging.WARNING, "peer %d (epoch %d, pid %d) died%s"),
    "hung_up": (
        logging.WARNING,
        "peer %d (epoch %d, pid %d) hung up but lives: what it holds comes back when it ends%s",
    ),
    "violation": (
        logging.ERROR,
        "peer %d (epoch %d, pid %d) sent what no peer may send%s",
    ),
    "cancelled": (logging.WARNING, "peer %d (epoch %d, pid %d) never attached%s"),
}


class HubHost(core.Host):
    """The creator of a hub. Use `HubHost.create`, as a context manager if you like.

    Closing it tells the peers (they raise HostGoneError with `.clean=True`) and removes a named
    hub's file. Frames and slots that are still held stay readable.

    Safe from several threads. In a forked child every use raises HubForkedError.
    """

    @classmethod
    def create(cls, path: PathLike | None = None, config: HubConfig | None = None) -> Self:
        """Create a hub and start its service thread.

        Args:
            path: None: an anonymous memfd, which is handed down to plugins by descriptor and
                leaves nothing behind, whatever happens. A path: a file of mode 0600 there (in
                /dev/shm or another tmpfs, or it is written to disk); the remains of a dead hub are
                replaced, anything else is refused.
            config: sizes and limits; the defaults suit most.

        Raises:
            HubExistsError: a live hub, or a file that is no hub, is at `path`.
            HubNoSpaceError: no memory for even the headers.
            UnsupportedPlatformError: no support here.
            OSError: from the operating system (permissions, descriptors, address space).

        Warns:
            RuntimeWarning: address space is limited (`ulimit -v`) and the hub has less room to
                grow than was asked for; see `.config` for what it got.
        """
        wanted = HubConfig() if config is None else config
        if not isinstance(wanted, HubConfig):
            raise TypeError(f"HubHost.create: config must be a HubConfig, not {config!r}")
        where = None if path is None else os.path.abspath(os.fspath(path))
        host = cls(where, *wanted.to_core())
        logger.info("created hub SHM at %s", "memfd" if where is None else where)
        if host.limited:
            host._warn_of_limit(wanted)
        return host

    def __init__(self, *core_arguments: Any) -> None:
        """As `_core.Host`; use `create`."""
        super().__init__(*core_arguments)
        self._removed: set[tuple[int, int]] = set()  # id and epoch, until it has been logged
        # Told of each violation: id, epoch, what. For shmhub's own layers above.
        self._on_violation: Callable[[int, int, str], object] | None = None

    def _warn_of_limit(self, wanted: HubConfig) -> None:
        got = self.config
        text = (
            "the address space of this process is limited (ulimit -v): the hub was made with less "
            f"room to grow, {_room(got)} instead of {_room(wanted)} MiB of slots"
        )
        logger.warning("%s", text)
        try:
            warnings.warn(text, RuntimeWarning, stacklevel=3)
        except RuntimeWarning:  # warnings are errors here: nobody will get the host to close it
            self.close()
            raise

    # What the core gives, with names.
    @property
    def config(self) -> HubConfig:  # type: ignore[override]  # pyright: ignore
        """What is in force: defaults filled in, growth cut to the address space."""
        return HubConfig.from_core(super().config)

    @property
    def peers(self) -> tuple[PeerStatus, ...]:
        """Everyone who has a place or still holds something."""
        self._log_events()
        found = (PeerStatus(*raw) for raw in self.raw_peers())
        return tuple(one._replace(name=peer_name(one.peer_id, one.name)) for one in found)

    def add_peer(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self, name: str | None = None
    ) -> PeerInfo:
        """Reserve a place for one peer.

        Args:
            name: what it is called in statistics and logs, up to 31 bytes of UTF-8; None: made of
                its id.

        Raises:
            PeerLimitError: all `max_peers - 1` ids are taken.
            HubNoSpaceError: no memory for its rings.
            HubClosedError, OSError
        """
        self._log_events()
        peer_id, epoch, doorbell, peer_fd = super().add_peer("" if name is None else name)
        return PeerInfo(
            self,
            peer_id=peer_id,
            name=peer_name(peer_id, name or ""),
            epoch=epoch,
            doorbell=doorbell,
            peer_doorbell_fd=peer_fd,
        )

    def remove_peer(self, peer_id: int) -> None:
        """Cancel a place that nobody has attached to.

        Raises:
            PeerStateError: that peer is alive; close its transport or end its process.
        """
        lives = {(one, epoch) for one, _, _, _, epoch in self.raw_peers() if one == peer_id}
        super().remove_peer(peer_id)
        self._removed |= lives
        self._log_events()

    def statistics(self) -> HubStatistics:
        """What the hub holds and has done; disturbs nobody."""
        self._log_events()
        return HubStatistics.from_core(self.raw_statistics())

    def trim(self) -> int:
        """Give the memory of free slots back to the system.

        Returns:
            bytes given back.
        """
        self._log_events()
        return super().trim()

    def fsck(self, repair: bool = False) -> FsckReport:
        """Check everything in shared memory that somebody believes.

        Args:
            repair: mend what is found, under the eyes of living peers: what they hold stays
                theirs. Memory of free slots is given back, as after `trim`. With no peer alive,
                no call of another thread under way and no frame or slot held, every free slot is
                on its list again afterwards.

        Returns:
            what was found, what of it was repaired and what is left. `report.clean` says whether
            all is well now.

        The whole check runs under the GIL and the hub's lock: some milliseconds for the default
        hub, during which nobody attaches. Messages flow on between peers' calls.
        """
        self._log_events()
        return FsckReport.from_core(self.raw_fsck(repair))

    def close(self) -> None:
        """End the hub in good order; idempotent."""
        if not self.closed:
            self._log_events()
        super().close()

    def _log_events(self) -> None:
        """Log what the service thread has seen: it has no GIL, so it cannot do so itself."""
        while (event := self.next_event()) is not None:
            kind, peer_id, epoch, pid, detail = event
            level, text = EVENTS[kind]
            if kind == "cancelled" and (peer_id, epoch) in self._removed:
                self._removed.discard((peer_id, epoch))
                level = logging.DEBUG  # the application's own doing
            logger.log(level, text, peer_id, epoch, pid, f": {detail}" if detail else "")
            if kind == "violation" and self._on_violation is not None:
                self._on_violation(peer_id, epoch, detail)

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
        where: Any = "closed" if self.closed else self.path or "memfd"
        return f"<HubHost {where}>"


def _room(config: HubConfig) -> int:
    """MiB of slots that the hub could have when fully grown."""
    return sum(one.slot_size * one.limit for one in config.size_classes) >> 20
