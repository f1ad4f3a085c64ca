"""One face for all six transports, so that one suite can hold each of them to the same contract.

The transport under test lives in this process; at its other end is an agent in another process: a
peer for the host's transports, a host for the peer's.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from typing import Any

import shmhub
from tests.support.agent_client import AgentHandle, Pending
from tests.support.environment import PATIENCE
from tests.support.stage import Stage

KINDS = (
    "host-peer",
    "host-all",
    "peer",
    "aio host-peer",
    "aio host-all",
    "aio peer",
)


class Side:
    """The transport under test, its methods callable alike whether they are coroutines or not."""

    def __init__(self, transport: Any, to: dict[str, int], runner: asyncio.Runner | None) -> None:
        self.transport = transport
        self._to = to
        self._runner = runner

    def _finish(self, result: Any) -> Any:
        if inspect.isawaitable(result):
            assert self._runner is not None, "a synchronous transport gave an awaitable"

            async def wait() -> Any:
                return await result

            return self._runner.run(wait())
        return result

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.transport, name)
        if not callable(found):
            return found

        def call(*args: Any, **arguments: Any) -> Any:
            if name.startswith("send"):
                arguments = {**self._to, **arguments}
            return self._finish(found(*args, **arguments))

        return call

    def iterate(self, most: int = 1000) -> list[Any]:
        """Up to ``most`` frames by iteration."""
        if self._runner is None:
            frames = []
            for frame in self.transport:
                frames.append(frame)
                if len(frames) == most:
                    break
            return frames

        async def collect() -> list[Any]:
            frames = []
            async for frame in self.transport:
                frames.append(frame)
                if len(frames) == most:
                    break
            return frames

        return list(self._finish(collect()))

    def use_in_with_block(self) -> None:
        """Enters and leaves the context manager."""
        if self._runner is None:
            with self.transport as entered:
                assert entered is self.transport
            return

        async def use() -> None:
            async with self.transport as entered:
                assert entered is self.transport

        self._finish(use())


class Pair:
    """A transport under test and whoever is at its other end."""

    def __init__(self, side: Side, other: AgentHandle, via: str, *, is_host: bool) -> None:
        self.side = side
        self._other = other
        self._via = via
        self.is_host = is_host
        self.gone = shmhub.PeerGoneError if is_host else shmhub.HostGoneError

    def other(self, verb: str, **arguments: Any) -> Any:
        """Has the other side do something with its transport."""
        return self._other.call(verb, via=self._via, **arguments)

    def start_other(self, verb: str, **arguments: Any) -> Pending:
        return self._other.start(verb, via=self._via, **arguments)

    def other_when_asleep(self, verb: str, **arguments: Any) -> Pending:
        """Has the other side do it as soon as this very thread sleeps."""
        return self._other.start(
            "when_asleep",
            pid=os.getpid(),
            tid=threading.get_native_id(),
            command=verb,
            arguments={"via": self._via, **arguments},
        )

    def release_other(self) -> None:
        self._other.call("release")

    def close_other(self) -> None:
        """The other side closes its transport in good order."""
        self._other.call("close_transport", name=self._via)

    def kill_other(self) -> None:
        self._other.kill()

    def recv(self) -> Any:
        return self.side.recv(timeout=PATIENCE)


def make_pair(stage: Stage, kind: str, config: shmhub.HubConfig, **options: Any) -> Pair:
    """Sets up one of the six; the stage ends it."""
    module: Any = shmhub.aio if kind.startswith("aio") else shmhub
    runner = stage.later(asyncio.Runner()) if kind.startswith("aio") else None
    if "host" not in kind:
        return _peer_side(stage, module, runner, config, **options)
    return _host_side(stage, kind, module, runner, config, **options)


def _host_side(
    stage: Stage,
    kind: str,
    module: Any,
    runner: asyncio.Runner | None,
    config: shmhub.HubConfig,
    **options: Any,
) -> Pair:
    host = stage.host(config)
    info = host.add_peer("other")
    if kind.endswith("all"):
        transport = module.HubHostTransport(host, **options)
        to = {"to": info.peer_id}
    else:
        transport = module.HubHostPeerTransport(host, info.peer_id, info.doorbell, **options)
        to = {}
    stage.later(transport)
    agent = stage.agent("other")
    stage.attach(host, info, agent)
    return Pair(Side(transport, to, runner), agent, "main", is_host=True)


def _peer_side(
    stage: Stage,
    module: Any,
    runner: asyncio.Runner | None,
    config: shmhub.HubConfig,
    **options: Any,
) -> Pair:
    host = stage.remote_host(config)
    peer_id, fds = host.call_with_descriptors("add_peer", name="under test")
    hub_fd, doorbell_fd = fds
    peer = stage.later(shmhub.HubPeer.open(f"/proc/self/fd/{hub_fd}", peer_id))
    os.close(hub_fd)
    peer.register()
    doorbell = shmhub.Doorbell.from_raw_fd(doorbell_fd)
    transport = stage.later(module.HubPeerTransport(peer, doorbell, "under test", **options))
    return Pair(Side(transport, {}, runner), host, f"peer-{peer_id}", is_host=False)
