"""What a test may leave behind: slots, descriptors, mappings, processes. Needs no pytest."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from shmhub import HubHost
from shmhub.testing import _processes
from shmhub.testing._slots import slots_in_use

if TYPE_CHECKING:
    from shmhub import PluginHost, aio

__all__ = [
    "PATIENCE",
    "AnyHost",
    "LeakError",
    "Snapshot",
    "assert_no_leaks",
    "hub_of",
    "wait_for_slots",
]

PATIENCE = 5.0
"""Seconds: a process that was told to end, and slots that it held, take their time."""

AnyHost: TypeAlias = "HubHost | PluginHost | aio.PluginHost"


class LeakError(AssertionError):
    """Something was left behind.

    Attributes:
        leaks: a line for each thing.
    """

    def __init__(self, leaks: list[str]) -> None:
        super().__init__("left behind:\n  " + "\n  ".join(leaks))
        self.leaks = leaks

    def __reduce__(self) -> tuple[type[LeakError], tuple[list[str]]]:
        return LeakError, (self.leaks,)


def hub_of(host: AnyHost) -> HubHost:
    """The hub itself.

    Raises:
        TypeError: that is nothing with a hub.
    """
    hub = host if isinstance(host, HubHost) else getattr(host, "hub", None)
    if not isinstance(hub, HubHost):
        raise TypeError(f"a HubHost or PluginHost is needed, not {host!r}")
    return hub


@dataclass(frozen=True)
class Snapshot:
    """What this process had at one moment."""

    descriptors: frozenset[tuple[int, str]]
    mappings: Counter[str]
    children: frozenset[tuple[int, str]]

    @classmethod
    def take(cls) -> Snapshot:
        return cls(
            descriptors=frozenset(_processes.descriptors().items()),
            mappings=_processes.hub_mappings(),
            children=frozenset(_processes.children().items()),
        )

    def new_children(self) -> list[int]:
        """Processes that this one has started since, and that have not ended or been waited for."""
        now = frozenset(_processes.children().items()) - self.children
        return sorted(pid for pid, _ in now if pid not in _helpers())

    def left(self) -> list[str]:
        """A line for each thing that is there now and was not then."""
        now = Snapshot.take()
        helpers = _helpers()
        lines = [
            f"process {pid}: {_processes.command_of(pid)}"
            for pid, _ in sorted(now.children - self.children)
            if pid not in helpers
        ]
        lines += [
            f"descriptor {fd} -> {target}"
            for fd, target in sorted(now.descriptors - self.descriptors)
            if fd not in helpers.values()
        ]
        lines += [
            f"mapping of {name}{f' x{count}' if count > 1 else ''}: a hub is open, or a view, "
            "ndarray, frame or slot of a closed one lives"
            for name, count in sorted((now.mappings - self.mappings).items())
        ]
        return lines

    def check(self, patience: float = PATIENCE) -> None:
        """Raise if something is left.

        Args:
            patience: seconds for processes to end and for what they held to come back.

        Raises:
            LeakError
        """
        _raise_what_stays(self.left, patience)


def wait_for_slots(host: AnyHost, *, patience: float = PATIENCE) -> None:
    """Wait until every slot of a hub is free.

    Args:
        patience: seconds: a plugin that has answered gives the arguments back a moment later.

    Raises:
        LeakError: it names every slot that is still in use, its state and who has it.
        HubClosedError: the hub is closed.
    """
    hub = hub_of(host)

    _raise_what_stays(lambda: [str(one) for one in slots_in_use(hub)], patience)


@contextmanager
def assert_no_leaks(*hosts: AnyHost, patience: float = PATIENCE) -> Iterator[None]:
    """Around what must leave nothing behind in this process, and no slot in use in those hubs.

    ::

        with assert_no_leaks():
            with shmhub.PluginHost() as host:
                host.spawn("image.py").brighten(pixels)

        with assert_no_leaks(host):  # of a host that lives on
            image.brighten(pixels)

    Without hosts, looked at are child processes, descriptors and shared mappings of this process;
    with hosts, which live on, their slots. What was there before does not count. When the body
    raises, that is raised and nothing is checked: its traceback keeps everything alive.

    Args:
        hosts: HubHosts and PluginHosts that are open before and after. What other threads do with
            them at the end counts.
        patience: seconds for what is on its way back.

    Raises:
        LeakError: names every slot with its state and owner, every descriptor, every process.
    """
    gc.collect()
    if not hosts:
        before = Snapshot.take()
        yield
        before.check(patience)
        return
    hubs = [hub_of(host) for host in hosts]
    used = [frozenset(one.use for one in slots_in_use(hub)) for hub in hubs]
    yield

    def in_use() -> list[str]:
        return [
            str(one)
            for hub, known in zip(hubs, used, strict=True)
            for one in slots_in_use(hub)
            if one.use not in known
        ]

    _raise_what_stays(in_use, patience)


def _raise_what_stays(look: Callable[[], list[str]], patience: float) -> None:
    left = look()
    if left:
        gc.collect()  # cycles of the test's own, which keep views alive

        def nothing() -> bool:
            nonlocal left
            left = look()
            return not left

        if not _processes.until(nothing, patience):
            raise LeakError(left)


def _helpers() -> dict[int, int]:
    """Processes of multiprocessing that live as long as this one, and our descriptors of them."""
    found = {}
    for module, name, pid, fd in (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid", "_fd"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid", "_forkserver_alive_fd"),
    ):
        helper = getattr(sys.modules.get(module), name, None)
        if getattr(helper, pid, None) is not None:
            found[getattr(helper, pid)] = getattr(helper, fd, None) or -1
    return found
