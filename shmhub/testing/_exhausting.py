"""Taking all slots of a hub, or of one size class, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shmhub import (
    HubHost,
    HubHostPeerTransport,
    HubHostTransport,
    HubNoSpaceError,
    PeerStateError,
    SlotsExhaustedError,
)
from shmhub.testing._leaks import AnyHost, hub_of

__all__ = ["Hoard", "exhausted"]


class Hoard:
    """Slots that are held so that nobody else has them. Made by `exhausted`."""

    def __init__(self, transport: Any, hub: HubHost, slot_size: int | None) -> None:
        self._transport = transport
        self._sizes = [one.slot_size for one in hub.config.size_classes]
        if slot_size is not None and slot_size not in self._sizes:
            raise ValueError(f"slot_size={slot_size}: the classes of this hub are {self._sizes}")
        self._slot_size = slot_size
        self._slots: list[Any] = []

    def take(self) -> int:
        """Take what is free now, too: what others held before and have given back.

        Returns:
            how many slots that were.
        """
        # One byte of each: no more memory than a page is needed for it, whatever its size. A class
        # that is empty gives way to the next larger one.
        others = []
        before = len(self._slots)
        try:
            while True:
                slot = self._transport.alloc_nowait(1)
                if self._slot_size is None or slot.capacity == self._slot_size:
                    self._slots.append(slot)
                else:
                    others.append(slot)
                    if slot.capacity > self._slot_size:
                        break
        except (SlotsExhaustedError, HubNoSpaceError):
            pass
        finally:
            for slot in others:
                slot.release()
        return len(self._slots) - before

    def give_back(self, count: int | None = None) -> None:
        """Let go of so many slots, None: of all; who waits for one gets it."""
        for _ in range(len(self) if count is None else min(count, len(self))):
            self._slots.pop().release()

    def __len__(self) -> int:
        return len(self._slots)

    def __repr__(self) -> str:
        what = "all classes" if self._slot_size is None else f"{self._slot_size} bytes"
        return f"<Hoard of {len(self)} slots of {what}>"


@contextmanager
def exhausted(
    host: AnyHost, slot_size: int | None = None, *, transport: HubHostTransport | None = None
) -> Iterator[Hoard]:
    """Hold every free slot of a hub; give them back on leaving.

    ::

        with exhausted(plugin_host):                # nothing is to be had
            image.brighten(pixels)                  # and still calls get through
        with exhausted(plugin_host, 1024) as hoard: # of one class; payloads take the next larger
            hoard.give_back(1)

    Slots that are in use when it begins are free again when their owners let go of them:
    `Hoard.take` takes those as well.

    Args:
        host: a HubHost needs a free peer id for this, a PluginHost does not.
        slot_size: bytes, of the one class that is meant; None: all classes. While it is begun,
            smaller classes are empty for a moment, too.
        transport: a HubHost's HubHostTransport, if it has one: that is what allocates then.

    Raises:
        ValueError: there is no such class.
        PeerLimitError: a HubHost has no free id.
        PeerStateError: a HubHost has a HubHostTransport, and it was not given.
    """
    hub = hub_of(host)
    made = _transport_of(host, hub) if transport is None else contextlib.nullcontext(transport)
    with made as allocating:
        hoard = Hoard(allocating, hub, slot_size)
        try:
            hoard.take()
            yield hoard
        finally:
            hoard.give_back()


@contextmanager
def _transport_of(host: AnyHost, hub: HubHost) -> Iterator[Any]:
    """A transport of the host's, to allocate by."""
    if not isinstance(host, HubHost):
        site: Any = getattr(host, "_sync", host)
        yield site._site.engine.transport
        return
    info = hub.add_peer("exhausted()")
    try:
        try:
            transport = HubHostPeerTransport(hub, info.peer_id, info.doorbell)
        except PeerStateError as error:
            raise PeerStateError(
                "exhausted(): this host has a HubHostTransport, which has every peer: "
                "pass it as transport="
            ) from error
        with transport:
            yield transport
    finally:
        with contextlib.suppress(Exception):
            info.close_peer_fd()
        with contextlib.suppress(Exception):
            hub.remove_peer(info.peer_id)
