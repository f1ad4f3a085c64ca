"""Checked by `make types`, never run: what type checkers make of `spawn` and its handles.

An error that is expected is marked; a mark without its error is one, for mypy and for pyright.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Protocol, assert_type

import shmhub


class Image(Protocol):
    """What a plugin must offer."""

    def resize(self, png: bytes, *, width: int) -> bytes: ...


class ImageHandle(shmhub.PluginHandle):
    """The same, with the handle's own names beside."""

    def resize(self, png: bytes, *, width: int) -> bytes: ...  # type: ignore[empty-body]


def sends(transport: shmhub.Transport) -> None:
    """Any transport of either side will do."""
    transport.send(b"", to=1, channel=2, message_id=3, timeout=4)


def all_transports(
    one: shmhub.HubHostPeerTransport, all: shmhub.HubHostTransport, peer: shmhub.HubPeerTransport
) -> None:
    for transport in (one, all, peer):
        sends(transport)


def all_asynchronous_ones(
    one: shmhub.aio.HubHostPeerTransport,
    all: shmhub.aio.HubHostTransport,
    peer: shmhub.aio.HubPeerTransport,
) -> tuple[shmhub.AsyncTransport, ...]:
    return one, all, peer


def untyped(host: shmhub.PluginHost) -> None:
    handle = host.spawn("image.py", replicas=2)
    assert_type(handle, shmhub.PluginHandle)
    assert_type(handle.resize(b"", width=1), Any)
    assert_type(handle.submit("resize", b""), Future[Any])
    assert_type(handle.options(timeout=1), shmhub.PluginHandle)
    handle.stop(1)


def typed(host: shmhub.PluginHost) -> None:
    image = host.spawn("image.py", interface=Image)  # type: ignore[type-abstract]
    assert_type(image.resize(b"", width=1), bytes)
    image.resize(b"", width="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    image.rezise(b"", width=1)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    handle = host.spawn("image.py", interface=ImageHandle)
    assert_type(handle.resize(b"", width=1), bytes)
    assert_type(handle.name, str)
