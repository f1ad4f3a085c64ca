"""iceoryx2 publish-subscribe, one service a direction: polling, or sleeping on its event service.

Untouched: a slice is loaned, declared initialised and sent; what arrives is released unread (for
64 bytes that was the fastest of what the Python binding offers: `send_copy` of a structure and a
loan of a fixed type both took longer). Everything lives under a prefix of its own, and what the
library leaves behind of that prefix is removed; of a run that was killed, by the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from ..sides import BenchmarkError, Child, Far, Link
from . import Contender

SPINS_PER_LOOK = 1 << 16  # then a look at the clock
WAIT_SECONDS = 20
PREFIX = "shmhubbench"
SHARED_MEMORY = Path("/dev/shm")


def _remove(scope: str) -> None:
    shutil.rmtree(Path(tempfile.gettempdir(), scope), ignore_errors=True)
    for left in SHARED_MEMORY.glob(f"{scope}_*"):
        with contextlib.suppress(OSError):
            left.unlink()


def _remove_remains() -> None:
    """Of runs that were killed; scopes are named by process id."""
    folders = Path(tempfile.gettempdir()).glob(f"{PREFIX}.*.*")
    names = {left.name.partition("_")[0] for left in SHARED_MEMORY.glob(f"{PREFIX}.*.*_*")}
    for scope in names | {folder.name for folder in folders}:
        pid = scope.split(".")[1]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            _remove(scope)


class Side:
    """One process's node, publisher and subscriber; with events, notifier and listener, too."""

    def __init__(self, scope: str, folder: str, *, near: bool, events: bool, size: int) -> None:
        library = importlib.import_module("iceoryx2")
        library.set_log_level(library.LogLevel.Error)
        config = library.config.default()
        config.global_cfg.prefix = library.FileName.new(f"{scope}_")
        config.global_cfg.root_path = library.Path.new(folder)
        self._node = library.NodeBuilder.new().config(config).create(library.ServiceType.Ipc)
        self._library = library
        self._size = size
        outgoing, incoming = ("to-far", "to-near") if near else ("to-near", "to-far")
        self.publisher = self._open_publisher(outgoing, size)
        self.subscriber = self._service(incoming).subscriber_builder().create()
        self.notifier = self.listener = None
        if events:
            self.notifier = self._event(outgoing).notifier_builder().create()
            self.listener = self._event(incoming).listener_builder().create()
        self.patience = library.Duration.from_secs(WAIT_SECONDS)

    def _open_publisher(self, name: str, size: int) -> Any:
        return self._service(name).publisher_builder().initial_max_slice_len(size).create()

    def _service(self, name: str) -> Any:
        library = self._library
        builder = self._node.service_builder(library.ServiceName.new(name))
        return builder.publish_subscribe(library.Slice[ctypes.c_uint8]).open_or_create()

    def _event(self, name: str) -> Any:
        builder = self._node.service_builder(self._library.ServiceName.new(f"{name}-event"))
        return builder.event().open_or_create()

    def send(self) -> None:
        self.publisher.loan_slice_uninit(self._size).assume_init().send()

    def give_up(self) -> None:
        raise BenchmarkError("iceoryx2: nothing arrives")

    def echo_polling(self, count: int, *, first: bool) -> None:
        """`first` says who speaks first; the other answers."""
        loan, receive, size = self.publisher.loan_slice_uninit, self.subscriber.receive, self._size
        spins, until = 0, time.monotonic() + WAIT_SECONDS
        for _ in range(count):
            if first:
                loan(size).assume_init().send()
            while (sample := receive()) is None:
                spins += 1
                if spins % SPINS_PER_LOOK == 0 and time.monotonic() > until:
                    self.give_up()
            sample.delete()
            if not first:
                loan(size).assume_init().send()

    def echo_event(self, count: int, *, first: bool) -> None:
        """A notification with every sample, and a wait for one before looking."""
        assert self.notifier is not None and self.listener is not None
        loan, receive, size = self.publisher.loan_slice_uninit, self.subscriber.receive, self._size
        notify, wait, patience = self.notifier.notify, self.listener.timed_wait, self.patience
        for _ in range(count):
            if first:
                loan(size).assume_init().send()
                notify()
            while (sample := receive()) is None:
                if not wait(patience):
                    self.give_up()
            sample.delete()
            if not first:
                loan(size).assume_init().send()
                notify()

    def close(self) -> None:
        for port in (self.publisher, self.subscriber, self.notifier, self.listener):
            if port is not None:
                port.delete()
        self.publisher = self.subscriber = self.notifier = self.listener = None
        self._node = None


class IceoryxNear:
    def __init__(self, side: Side, scope: str, *, events: bool) -> None:
        self._side, self._scope, self._events = side, scope, events

    def echo(self, count: int, payload: bytes) -> None:
        talk = self._side.echo_event if self._events else self._side.echo_polling
        talk(count, first=True)

    def close(self) -> None:
        self._side.close()
        _remove(self._scope)


class IceoryxFar(Far):
    def __init__(self, scope: str, folder: str, events: bool, size: int) -> None:
        self._side = Side(scope, folder, near=False, events=events, size=size)
        self._events = events

    def echo(self, count: int) -> None:
        talk = self._side.echo_event if self._events else self._side.echo_polling
        talk(count, first=False)

    def close(self) -> None:
        self._side.close()


class Iceoryx2(Contender):
    module = "iceoryx2"
    distribution = "iceoryx2"

    def __init__(self, size: int, *, events: bool = False) -> None:
        self._size = size
        self._events = events
        self.name = "iceoryx2 event" if events else "iceoryx2 polling"

    def connect(self) -> Link:
        _remove_remains()
        scope = f"{PREFIX}.{os.getpid()}.{uuid.uuid4().hex[:6]}"
        folder = str(Path(tempfile.gettempdir(), scope))
        os.mkdir(folder, 0o700)
        side = Side(scope, folder, near=True, events=self._events, size=self._size)
        near = IceoryxNear(side, scope, events=self._events)
        try:
            child = Child.spawn(IceoryxFar, scope, folder, self._events, self._size)
            child.ready()
        except BaseException:
            near.close()
            raise
        return Link(near, child)
