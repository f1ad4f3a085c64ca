"""Steps of a host or a peer under a resource limit that is set before one of them.

Run in forked children: a limit cannot be taken back, and must not reach the tests.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import shmhub
from tests.support import leaks

STEPS = ("create", "add_peer", "transport", "open", "register", "connect", "alloc", "send", "recv")
_SIZE = 3 << 20


def _lower(kind: int, value: int) -> None:
    """The soft limit only, so that it can be raised again to look at what was left behind."""
    resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


def _lower_descriptors(spare: int) -> None:
    """Room for ``spare`` more descriptors."""
    taken = leaks.open_descriptors(os.getpid())
    limit = next(number for number in itertools.count() if number not in taken)
    _lower(resource.RLIMIT_NOFILE, limit + spare)


def _lower_file_size(spare: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _lower(resource.RLIMIT_FSIZE, spare * 65536)


def _lower_address_space(spare: int) -> None:
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    _lower(resource.RLIMIT_AS, now + spare * (2 << 20))


def _raise_again() -> None:
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (hard, hard))


LIMITS: dict[str, Callable[[int], None]] = {
    "NOFILE": _lower_descriptors,
    "FSIZE": _lower_file_size,
    "AS": _lower_address_space,
}


class Hub:
    """A host and a peer in this one process, built step by step."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._stack = contextlib.ExitStack()
        self.things: dict[str, Any] = {}

    def steps(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        things = self.things
        for name in STEPS:
            yield name, lambda name=name: things.__setitem__(name, getattr(self, f"_{name}")())

    def close(self) -> None:
        self.things.clear()
        self._stack.close()

    def _create(self) -> Any:
        classes = (shmhub.SizeClass(1024, 64, 64), shmhub.SizeClass(4 << 20, 8, 8))
        config = shmhub.HubConfig(size_classes=classes)
        return self._stack.enter_context(shmhub.HubHost.create(self._path, config))

    def _add_peer(self) -> Any:
        return self.things["create"].add_peer()

    def _transport(self) -> Any:
        info = self.things["add_peer"]
        return self._stack.enter_context(
            shmhub.HubHostPeerTransport(self.things["create"], info.peer_id, info.doorbell)
        )

    def _open(self) -> Any:
        path = self._path or f"/proc/self/fd/{self.things['create'].fileno()}"
        peer = shmhub.HubPeer.open(path, self.things["add_peer"].peer_id)
        self._stack.callback(peer.close)
        return peer

    def _register(self) -> Any:
        return self.things["open"].register()

    def _connect(self) -> Any:
        fd = os.dup(self.things["add_peer"].peer_doorbell_fd)
        try:
            doorbell = shmhub.Doorbell.from_raw_fd(fd)
        except BaseException:
            os.close(fd)
            raise
        self._stack.callback(doorbell.close)
        return self._stack.enter_context(
            shmhub.HubPeerTransport(self.things["open"], doorbell, "limited")
        )

    def _alloc(self) -> Any:
        with self.things["connect"].alloc(_SIZE, timeout=1) as slot:
            slot.write(b"\xa5" * _SIZE)

    def _send(self) -> Any:
        return self.things["connect"].send(b"m" * _SIZE, timeout=1)

    def _recv(self) -> Any:
        with self.things["transport"].recv(timeout=1) as frame:
            assert bytes(frame) == b"m" * _SIZE


def run(*, limit: str, before: str, spare: int, path: str | None, fds: dict[str, int]) -> int:
    """Lowers ``limit`` before the step ``before``; reports how it went; 1 if something leaked."""
    _warm_up()
    start = leaks.Snapshot.take()
    hub = Hub(path)
    outcome = "all steps done"
    for name, step in hub.steps():
        if name == before:
            LIMITS[limit](spare)
        try:
            step()
        except (shmhub.ShmhubError, OSError, MemoryError) as error:
            outcome = f"{name}: {type(error).__name__}: {error}"
            break
    _raise_again()
    hub.close()
    os.write(fds["report"], outcome.encode(errors="replace"))
    return _report_leaks(start, path)


def _warm_up() -> None:
    """Opens what Python and libraries open only once and keep."""
    hub = Hub(None)
    for _, step in hub.steps():
        step()
    hub.close()


def _report_leaks(start: leaks.Snapshot, path: str | None) -> int:
    _raise_again()
    left = start.what_is_left(leaks.Snapshot.take())
    if path is not None and os.path.exists(path):
        left.append(path)
    print("\n".join(left), file=sys.stderr)
    return 1 if left else 0


def run_default_hub(*, mebibytes: int, fds: dict[str, int]) -> int:
    """A default hub where address space is limited; reports what it became."""
    import logging
    import warnings

    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("shmhub").addHandler(handler)
    resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with shmhub.HubHost.create() as host:
            limited = host.limited
            info = host.add_peer()
            with shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
                transport.alloc(16 << 20, timeout=1).release()
    warned = bool(caught or records)
    os.write(fds["report"], f"limited={limited} warned={warned}".encode())
    return 0
