"""Generators among the arguments of a call: found, and taken out of what is encoded.

Knows nothing of how they are read: `_stream` does.
"""

from __future__ import annotations

from types import AsyncGeneratorType, GeneratorType
from typing import Any

from shmhub._rpc._stream import Stream

__all__ = ["carries_stream", "take_uploads"]

UPLOADS = (GeneratorType, AsyncGeneratorType, Stream)


def carries_stream(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> bool:
    """Is there a generator among the arguments? It is read once, by one other side."""
    for one in (*args, *kwargs.values()) if kwargs else args:  # noqa: SIM110  # each call takes it
        if isinstance(one, UPLOADS):
            return True
    return False


def take_uploads(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], list[Any]]:
    """Generators out of the arguments: None in their places, the places as the first argument."""
    uploads: list[Any] = []
    places: list[int | str] = []
    left: list[Any] = []
    for place, one in enumerate(args):
        is_upload = isinstance(one, UPLOADS)
        if is_upload:
            uploads.append(one)
            places.append(place)
        left.append(None if is_upload else one)
    named = {}
    for key, one in kwargs.items():
        is_upload = isinstance(one, UPLOADS)
        if is_upload:
            uploads.append(one)
            places.append(key)
        named[key] = None if is_upload else one
    return (tuple(places), *left), named, uploads
