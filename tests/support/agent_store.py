"""What an agent holds between commands, and the registry of its commands."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import shmhub

Verb = Callable[..., Any]
VERBS: dict[str, Verb] = {}


def verb(function: Verb) -> Verb:
    """Makes ``function(store, fds, **arguments)`` a command under its own name."""
    if function.__name__ in VERBS:
        raise ValueError(f"two verbs are called {function.__name__}")
    VERBS[function.__name__] = function
    return function


class WithDescriptors:
    """A result that travels with file descriptors (they stay open here)."""

    def __init__(self, result: Any, descriptors: list[int]) -> None:
        self.result = result
        self.descriptors = descriptors


class Store:
    """Objects of the hub that live in this process, by the names the test gave them."""

    def __init__(self) -> None:
        self.host: shmhub.HubHost | None = None
        self.infos: dict[int, shmhub.PeerInfo] = {}
        self.peer: shmhub.HubPeer | None = None
        self.transports: dict[str, Any] = {}
        self.held: dict[int, Any] = {}
        self.keys = itertools.count(1)
        self.stopping = threading.Event()
        self.exiting = False
        self.exit_code = 0

    def transport(self, name: str = "main") -> Any:
        return self.transports[name]

    def hold(self, thing: Any) -> int:
        key = next(self.keys)
        self.held[key] = thing
        return key

    def close(self) -> None:
        """Orderly end; what the test has closed before may be closed again."""
        for thing in self.held.values():
            thing.release()
        self.held.clear()
        for transport in self.transports.values():
            transport.close()
        if self.peer is not None:
            self.peer.close()
        if self.host is not None:
            self.host.close()
