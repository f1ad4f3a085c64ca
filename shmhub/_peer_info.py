"""What the host needs to start a plugin: the command line, the descriptors, the watch.

A PeerInfo is made by `HubHost.add_peer`. It can be handed to a spawned `multiprocessing.Process`:
there it is a `SpawnedPeerInfo`, which has what a plugin needs and nothing of the host's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from shmhub._argv import plugin_argv
from shmhub._errors import HubClosedError, PeerStateError

if TYPE_CHECKING:
    import subprocess

    from shmhub._native import core

__all__ = ["PeerInfo", "SpawnedPeerInfo"]

logger = logging.getLogger("shmhub")

Argument = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class _HasPid(Protocol):
    """A started process: `subprocess.Popen`, `multiprocessing.Process` and their like."""

    @property
    def pid(self) -> int | None: ...


class PeerInfo:
    """A place in the hub that was reserved for one peer.

    Attributes:
        peer_id: the id, 1 to `max_peers - 1`.
        name: what the peer is called in statistics and logs.
        epoch: which life of this id it is: ids are used again.
        doorbell: the host's end, for `HubHostPeerTransport`.
        peer_doorbell_fd: the peer's end. It is the host's to close, see `close_peer_fd`: to attach
            from this very process, duplicate it.

    Safe from several threads.
    """

    def __init__(
        self,
        host: core.Host,
        *,
        peer_id: int,
        name: str,
        epoch: int,
        doorbell: core.Doorbell,
        peer_doorbell_fd: int,
    ) -> None:
        self._host = host
        self.peer_id = peer_id
        self.name = name
        self.epoch = epoch
        self.doorbell = doorbell
        self.peer_doorbell_fd = peer_doorbell_fd
        self._given_away = False

    def __repr__(self) -> str:
        return f"<PeerInfo {self.name!r} peer_id={self.peer_id} epoch={self.epoch}>"

    @property
    def argv(self) -> list[str]:
        """The plugin's command line: `--hub-path=… --peer-id=… --doorbell-fd=…`."""
        path = self._host.path
        return plugin_argv(
            hub_path=f"/proc/self/fd/{self._hub_fd()}" if path is None else path,
            peer_id=self.peer_id,
            doorbell_fd=self.peer_doorbell_fd,
        )

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """The descriptors that the plugin must inherit under the same numbers."""
        if self._host.path is None:
            return (self._hub_fd(), self.peer_doorbell_fd)
        return (self.peer_doorbell_fd,)

    def popen(self, args: Argument | Sequence[Argument], **popen_kw: Any) -> subprocess.Popen[Any]:
        """Start the plugin: `args` and the hub's own arguments, which are appended.

        Passes the descriptors, closes the peer's end here and watches the process, so that one
        that ends without having attached gives its id back. When the program cannot be started
        the place stays reserved: start another, or `HubHost.remove_peer`.

        Args:
            args: the program and its arguments; one string is a program without arguments.
            popen_kw: as for `subprocess.Popen`; `pass_fds` are added to the hub's.

        Raises:
            PeerStateError: the peer's end was closed here already.
            ValueError: `shell=True`: a shell takes no appended arguments; start `["sh", "-c",
                'exec program "$@"', "sh"]` instead.
            OSError: from Popen.
        """
        if popen_kw.get("shell"):
            raise ValueError(
                "popen(shell=True) cannot append the plugin's arguments: pass a list, for a shell "
                "['sh', '-c', 'exec program \"$@\"', 'sh']"
            )
        if self._given_away:
            raise PeerStateError(
                f"popen() of peer {self.peer_id} ({self.name}): its end of the doorbell was given "
                "away or closed already; add another peer"
            )
        import subprocess  # here, because a plugin has no use for it and starts faster without

        program = [args] if isinstance(args, str | bytes | os.PathLike) else list(args)
        popen_kw["pass_fds"] = (*popen_kw.get("pass_fds", ()), *self.pass_fds)
        process = subprocess.Popen([*program, *self.argv], **popen_kw)
        self.watch(process)
        self.close_peer_fd()
        return process

    def close_peer_fd(self) -> None:
        """Close the peer's end here; idempotent. Happens by itself when the peer has attached."""
        self._given_away = True
        self._host.close_peer_fd(self.doorbell)

    def watch(self, process: int | _HasPid) -> None:
        """Tell which process was started, so that an attach that never comes is cancelled.

        It may be a wrapper (`sh`, `uv run`): who the peer is, the peer itself tells. Where the
        kernel refuses to watch, a warning is logged and the place stays reserved until
        `HubHost.remove_peer`.

        Args:
            process: a Popen, a multiprocessing.Process, a pid, or a pidfd (stays yours).

        Raises:
            ProcessLookupError: there is no such process.
        """
        pid = process if isinstance(process, int) else process.pid
        if pid is None:
            raise ValueError(f"watch({process!r}): that process has not been started")
        if isinstance(process, int) and _is_pidfd(process):
            self._host.watch(self.doorbell, process)
            return
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise
        except OSError as error:
            logger.warning("cannot watch process %d of %s: %s", pid, self.name, error)
            return
        try:
            self._host.watch(self.doorbell, pidfd)
        finally:
            os.close(pidfd)

    def _hub_fd(self) -> int:
        if self._host.closed:
            raise HubClosedError(f"{self!r}: its hub is closed, no plugin can be started for it")
        return self._host.fileno()

    def __reduce__(self) -> tuple[Any, ...]:
        # Imported here: most hosts start their plugins without multiprocessing.
        from multiprocessing.reduction import DupFd as duplicate  # noqa: N813

        path = self._host.path
        hub = duplicate(self._hub_fd()) if path is None else path
        doorbell = duplicate(self.peer_doorbell_fd)
        return SpawnedPeerInfo, (self.peer_id, self.name, self.epoch, hub, doorbell)


def _is_pidfd(number: int) -> bool:
    """Is that number one of our descriptors, and does it refer to a process?"""
    try:
        target = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return False
    return target == "anon_inode:[pidfd]" or target.startswith("pidfd:")


class SpawnedPeerInfo:
    """A PeerInfo on the other side: what a process spawned by multiprocessing was handed.

    `HubPeerTransport.from_argv(info.argv)` attaches.
    """

    def __init__(self, peer_id: int, name: str, epoch: int, hub: Any, doorbell: Any) -> None:
        self.peer_id = peer_id
        self.name = name
        self.epoch = epoch
        self.hub_path: str = hub if isinstance(hub, str) else f"/proc/self/fd/{hub.detach()}"
        self.peer_doorbell_fd: int = doorbell.detach()

    def __repr__(self) -> str:
        return f"<SpawnedPeerInfo {self.name!r} peer_id={self.peer_id} epoch={self.epoch}>"

    @property
    def argv(self) -> list[str]:
        """The plugin's command line: `--hub-path=… --peer-id=… --doorbell-fd=…`."""
        return plugin_argv(
            hub_path=self.hub_path, peer_id=self.peer_id, doorbell_fd=self.peer_doorbell_fd
        )
