"""A host's engine and plugins of programs/rpc_plugin.py, for tests of RPC."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import shmhub
from shmhub._rpc import Engine, Link, Method, Server
from tests.support.environment import PATIENCE, python_command
from tests.support.stage import Stage

PROGRAM = Path(__file__).with_name("programs") / "rpc_plugin.py"


class Rig:
    """One host, its engine, and plugins; close it before the stage's host."""

    def __init__(
        self, stage: Stage, config: shmhub.HubConfig | None = None, **options: Any
    ) -> None:
        self.host = stage.host(config)
        self.server = Server(name="host")
        self.gone: list[tuple[Link, shmhub.PeerGoneError]] = []
        self._ready: dict[Link, threading.Event] = {}
        self._lost: dict[Link, threading.Event] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self.engine = Engine(
            self.host,
            callbacks=self.server,
            on_hello=lambda link: self._ready[link].set(),
            on_lost=self._on_lost,
            **options,
        )
        stage.later(self)

    def _on_lost(self, link: Link, error: shmhub.PeerGoneError) -> None:
        self.gone.append((link, error))
        self._lost[link].set()

    def callback(self, function: Any, name: str | None = None) -> None:
        self.server.add(Method.of(function, name=name))

    def start(self) -> None:
        self.engine.start()

    def plugin(self, name: str = "rpc", *, codec: str = "pickle", threads: int = 1) -> Link:
        """A plugin that has said hello."""
        info = self.host.add_peer(name)
        link = self.engine.open_link(info, codec=codec)
        self._ready[link] = threading.Event()
        self._lost[link] = threading.Event()
        command = [*python_command(PROGRAM), f"threads={threads}", f"codec={codec}"]
        process = info.popen(command)
        self._processes.append(process)
        link.process = process  # type: ignore[attr-defined]
        assert self._ready[link].wait(PATIENCE), "the plugin did not say hello"
        return link

    def kill(self, link: Any) -> None:
        link.process.kill()
        link.process.wait(PATIENCE)

    def wait_lost(self, link: Link) -> None:
        assert self._lost[link].wait(PATIENCE), "nobody was told that the plugin is gone"

    def held(self) -> int:
        """Slots that are not free."""
        classes = self.host.statistics().size_classes
        return sum(one.owned + one.in_ring for one in classes)

    def close(self) -> None:
        self.engine.close()
        for process in self._processes:
            process.kill()
            process.wait(PATIENCE)


def soon() -> float:
    """A deadline that is not meant to be reached."""
    return time.monotonic() + PATIENCE
