"""What all transports have in common, for annotations: `Transport` and `AsyncTransport`.

A function that takes a `Transport` works with any of the synchronous ones, on either side.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypedDict, runtime_checkable

from shmhub._statistics import TransportStatistics

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from shmhub._native import core

__all__ = ["AsyncTransport", "Labels", "ManyLabels", "Transport"]


class ManyLabels(TypedDict, total=False):
    """What `send_many` says of all its messages; of `send_nowait`, `send`, too. Those that are
    not given are 0 or None, or those of the frame that is passed on."""

    to: int | None
    channel: int
    method: int
    flags: int
    deadline: float | None


class Labels(ManyLabels, total=False):
    """What `send` says beside the payload."""

    message_id: int | None


class _Immediate(Protocol):
    """The part that never waits, the same in both worlds."""

    @property
    def name(self) -> str: ...
    @property
    def peer_id(self) -> int | None: ...
    @property
    def closed(self) -> bool: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...
    def statistics(self) -> TransportStatistics: ...
    def alloc_nowait(self, nbytes: int) -> core.Slot: ...
    def send_nowait(
        self,
        payload: Buffer = b"",
        /,
        *,
        to: int | None = ...,
        channel: int = ...,
        method: int = ...,
        flags: int = ...,
        message_id: int | None = ...,
        deadline: float | None = ...,
    ) -> int: ...
    def send_many_nowait(
        self,
        payloads: Iterable[Buffer],
        /,
        *,
        to: int | None = ...,
        channel: int = ...,
        method: int = ...,
        flags: int = ...,
        deadline: float | None = ...,
    ) -> list[int]: ...
    def recv_nowait(self) -> core.Frame: ...
    def recv_many_nowait(self, max: int) -> list[core.Frame]: ...


@runtime_checkable
class Transport(_Immediate, Protocol):
    """Sends and receives, waiting in the calling thread."""

    def alloc(self, nbytes: int, *, timeout: float | None = None) -> core.Slot: ...
    def send(
        self,
        payload: Buffer = b"",
        /,
        *,
        to: int | None = ...,
        channel: int = ...,
        method: int = ...,
        flags: int = ...,
        message_id: int | None = ...,
        deadline: float | None = ...,
        timeout: float | None = None,
    ) -> int: ...
    def send_many(
        self,
        payloads: Iterable[Buffer],
        /,
        *,
        to: int | None = ...,
        channel: int = ...,
        method: int = ...,
        flags: int = ...,
        deadline: float | None = ...,
        timeout: float | None = None,
    ) -> list[int]: ...
    def recv(self, timeout: float | None = None) -> core.Frame: ...
    def recv_many(self, max: int, timeout: float | None = None) -> list[core.Frame]: ...
    def __iter__(self) -> Iterator[core.Frame]: ...
    def __next__(self) -> core.Frame: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class AsyncTransport(_Immediate, Protocol):
    """Sends and receives, waiting in the calling task."""

    async def alloc(self, nbytes: int, *, timeout: float | None = None) -> core.Slot: ...
    async def send(
        self,
        payload: Buffer = b"",
        /,
        *,
        to: int | None = ...,
        channel: int = ...,
        method: int = ...,
        flags: int = ...,
        message_id: int | None = ...,
        deadline: float | None = ...,
        timeout: float | None = None,
    ) -> int: ...
    async def send_many(
        self,
        payloads: Iterable[Buffer],
        /,
        *,
        to: int | None = ...,
        channel: int = ...,
        method: int = ...,
        flags: int = ...,
        deadline: float | None = ...,
        timeout: float | None = None,
    ) -> list[int]: ...
    async def recv(self, timeout: float | None = None) -> core.Frame: ...
    async def recv_many(self, max: int, timeout: float | None = None) -> list[core.Frame]: ...
    def __aiter__(self) -> AsyncIterator[core.Frame]: ...
    async def __anext__(self) -> core.Frame: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
