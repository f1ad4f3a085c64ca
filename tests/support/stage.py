"""Hosts, agents and transports of one test, all ended in teardown whatever happened."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import shmhub
from tests.support import watchdog
from tests.support.agent_client import AgentHandle
from tests.support.environment import python_command
from tests.support.nursery import Nursery
from tests.support.processes import Child, ExecutedChild

_PEER_PROGRAM = Path(__file__).with_name("peer_program.py")
_KIB = 1024
_MIB = 1024 * 1024


def fixed(*classes: tuple[int, int], **options: Any) -> shmhub.HubConfig:
    """A configuration whose classes are (slot size, slots) and never grow."""
    sizes = tuple(shmhub.SizeClass(size, slots, slots) for size, slots in classes)
    return shmhub.HubConfig(size_classes=sizes, **options)


def small(**options: Any) -> shmhub.HubConfig:
    """All sizes of the default table, few slots of each: easy to exhaust, cheap to fill."""
    return fixed(
        (_KIB, 32), (16 * _KIB, 16), (256 * _KIB, 8), (4 * _MIB, 4), (16 * _MIB, 2), **options
    )


class Link:
    """One attached peer: the agent that plays it, and the host's side of it in this process."""

    def __init__(self, info: shmhub.PeerInfo, agent: AgentHandle, transport: Any) -> None:
        self.info = info
        self.peer_id: int = info.peer_id
        self.agent = agent
        self.transport = transport

    def kill(self) -> None:
        self.agent.kill()

    def discard(self) -> None:
        """Kills the agent and closes what its handle needs: for tests that use up hundreds."""
        self.agent.close()


class Stage:
    """Everything a test has set up. ``close`` ends it in an order that no failure can upset."""

    def __init__(self, nursery: Nursery) -> None:
        self.nursery = nursery
        self._cleanup = contextlib.ExitStack()

    def close(self) -> None:
        self._cleanup.close()

    def later(self, thing: Any) -> Any:
        """Closes ``thing`` at the end of the test."""
        self._cleanup.callback(thing.close)
        return thing

    # Hosts and transports in this process

    def host(
        self, config: shmhub.HubConfig | None = None, path: str | os.PathLike[str] | None = None
    ) -> shmhub.HubHost:
        host = shmhub.HubHost.create(
            None if path is None else os.fspath(path), config if config is not None else small()
        )
        watchdog.HOSTS.add(host)
        self._cleanup.callback(host.close)
        return host

    def peer(
        self,
        host: shmhub.HubHost,
        name: str | None = None,
        *,
        executed: bool = False,
        transport: bool = True,
        **options: Any,
    ) -> Link:
        """A peer in another process, attached; ``transport``: make the host's side of it, too."""
        info = host.add_peer(name)
        made = None
        if transport:
            made = self.later(
                shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell, **options)
            )
        agent = self.agent(name or f"peer-{info.peer_id}", executed=executed)
        self.attach(host, info, agent)
        return Link(info, agent, made)

    def attach(self, host: shmhub.HubHost, info: shmhub.PeerInfo, agent: AgentHandle) -> None:
        fds = [host.fileno(), info.peer_doorbell_fd]
        agent.call("attach", fds=fds, peer_id=info.peer_id)
        agent.peer_id = info.peer_id

    # Agents: processes that do what the test tells them

    def agent(self, name: str = "agent", *, executed: bool = False) -> AgentHandle:
        """A process with nothing of a hub in it yet: forked from the nursery, or a program."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._cleanup.callback(ours.close)
        child: Child
        with theirs:
            if executed:
                child = self._execute(theirs)
            else:
                child = self.nursery.spawn(
                    "tests.support.agent:main", fds={"control": theirs.fileno()}
                )
        return self.later(AgentHandle(child, ours, name))

    def _execute(self, control: socket.socket) -> Child:
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - the child's handle owns it
        command = [*python_command(_PEER_PROGRAM), f"--control-fd={control.fileno()}"]
        popen = subprocess.Popen(command, pass_fds=[control.fileno()], stderr=stderr)
        return ExecutedChild(popen, stderr)

    def popen_peer(
        self, info: shmhub.PeerInfo, *, name: str = "program", options: Sequence[str] = ()
    ) -> AgentHandle:
        """The agent program started with ``PeerInfo.popen``, as a user would."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._cleanup.callback(ours.close)
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - the child's handle owns it
        with theirs:
            popen = info.popen(
                [*python_command(_PEER_PROGRAM, *options), f"--control-fd={theirs.fileno()}"],
                pass_fds=[theirs.fileno()],
                stderr=stderr,
            )
        agent: AgentHandle = self.later(AgentHandle(ExecutedChild(popen, stderr), ours, name))
        agent.peer_id = info.peer_id
        return agent

    # A host in another process, for when the host is what dies

    def remote_host(
        self, config: shmhub.HubConfig | None = None, path: str | None = None
    ) -> AgentHandle:
        agent = self.agent("host")
        agent.call("create_host", config=config if config is not None else small(), path=path)
        return agent

    def remote_peer(self, host: AgentHandle, name: str = "peer") -> AgentHandle:
        """An agent attached to the hub of another one, whose transport to it is "peer-<id>"."""
        peer_id, fds = host.call_with_descriptors("add_peer", name=name)
        agent = self.agent(name)
        try:
            agent.call("attach", fds=fds, peer_id=peer_id)
        finally:
            for fd in fds:
                os.close(fd)
        agent.peer_id = peer_id
        return agent
