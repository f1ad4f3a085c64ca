"""A plugin's side of a hub: map it and claim the id that the host has reserved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from shmhub._argv import parse_plugin_argv
from shmhub._native import core

__all__ = ["HubPeer"]

INHERITED_HUB = "/proc/self/fd/"


class HubPeer(core.Peer):
    """A hub as an attached process sees it. Use `HubPeer.open` or `HubPeer.from_argv`.

    Safe from several threads. In a forked child every use raises HubForkedError.
    """

    @classmethod
    def open(cls, path: str | os.PathLike[str], peer_id: int) -> Self:
        """Map the hub at `path`; nothing of it is touched before `register`.

        Args:
            path: of a named hub, or `/proc/self/fd/N` for one handed down by descriptor.
            peer_id: the id that the host gave out.

        Raises:
            HubFormatError: that is no hub, or not of this version.
            NotAttachedError: `peer_id` is no id of this hub.
            OSError: nothing is there, or it cannot be opened.
        """
        return cls(os.fspath(path), peer_id)

    @classmethod
    def from_argv(cls, argv: Sequence[str] | None = None) -> tuple[Self, core.Doorbell]:
        """Open and register as the command line says; foreign arguments are left alone.

        Args:
            argv: None: those of this program.

        Returns:
            the registered peer and the doorbell, both for `HubPeerTransport`.

        Raises:
            NotAttachedError: an argument is missing or wrong, or the host does not expect it.
            HubFormatError, OSError: as `open`, and from the doorbell's descriptor.
        """
        arguments = parse_plugin_argv(argv)
        doorbell = core.Doorbell.from_raw_fd(arguments.doorbell_fd)
        try:
            # What was handed to this process is not for the programs that it starts.
            os.set_inheritable(arguments.doorbell_fd, False)
            peer = cls.open(arguments.hub_path, arguments.peer_id)
            try:
                peer.register()
            except BaseException:
                peer.close()
                raise
        except BaseException:
            doorbell.close()
            raise
        _close_inherited(arguments.hub_path)
        return peer, doorbell

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
        return f"<HubPeer {self.peer_id} of {self.path}{', closed' if self.closed else ''}>"


def _close_inherited(hub_path: str) -> None:
    """Close the descriptor under which an anonymous hub was handed down: it is mapped by now.

    Kept open, it would keep the hub's memory after `close`. A descriptor that came with exec is
    inheritable; the host's own never is, so this cannot hit a host that lives in this process.
    """
    number = hub_path.removeprefix(INHERITED_HUB)
    if number == hub_path or not number.isdigit():
        return
    fd = int(number)
    if os.get_inheritable(fd):
        os.close(fd)
