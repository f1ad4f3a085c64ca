"""Agent commands of a host: for tests in which the host is what is killed or stopped."""

from __future__ import annotations

import os
import signal
from typing import Any

import shmhub
from tests.support.agent_store import Store, WithDescriptors, verb


@verb
def create_host(
    store: Store, fds: list[int], *, config: shmhub.HubConfig, path: str | None = None
) -> None:
    store.host = shmhub.HubHost.create(path, config)


@verb
def add_peer(store: Store, fds: list[int], *, name: str | None = None) -> WithDescriptors:
    """Adds a peer and makes its transport ("peer-<id>"); hands out (hub fd, the peer's end)."""
    assert store.host is not None
    info = store.host.add_peer(name)
    store.infos[info.peer_id] = info
    store.transports[f"peer-{info.peer_id}"] = shmhub.HubHostPeerTransport(
        store.host, info.peer_id, info.doorbell
    )
    return WithDescriptors(info.peer_id, [store.host.fileno(), info.peer_doorbell_fd])


@verb
def connect_all(store: Store, fds: list[int], *, name: str = "all") -> None:
    """The transport that serves all peers at once."""
    store.transports[name] = shmhub.HubHostTransport(store.host)


@verb
def host_statistics(store: Store, fds: list[int]) -> list[tuple[Any, ...]]:
    assert store.host is not None
    return [tuple(entry) for entry in store.host.statistics().size_classes]


@verb
def close_host(store: Store, fds: list[int]) -> None:
    assert store.host is not None
    store.host.close()


@verb
def fork_and_wait(store: Store, fds: list[int]) -> int:
    """Forks a child that inherits everything and does nothing until it is killed."""
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    return pid
