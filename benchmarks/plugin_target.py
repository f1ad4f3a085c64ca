"""The plugin that the plugin benchmarks call: each method gives its argument back.

The functions at the top are the same work for the contenders' workers.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shmhub

if TYPE_CHECKING:
    import numpy

plugin = shmhub.Plugin("bench")


def give_back(value: Any) -> Any:
    """Untouched."""
    return value


@functools.cache
def _reader() -> Callable[[Any], int]:
    # Not above: hundreds of starts of this plugin are measured, and none of them reads arrays.
    from . import native

    touch = native.extension("_touch", Path(__file__).parent / "contenders" / "_touch.c")
    read: Callable[[Any], int] = touch.read
    return read


def read_and_give_back(array: numpy.ndarray) -> numpy.ndarray:
    """Read every byte once."""
    _reader()(array)
    return array


@plugin.method(idempotent=True)
def echo(value: Any) -> Any:
    return give_back(value)


@plugin.method(idempotent=True)
def read(array: numpy.ndarray) -> numpy.ndarray:
    return read_and_give_back(array)


@plugin.method
def count(number: int) -> Any:
    yield from range(number)


@plugin.method(idempotent=True)
def linger(seconds: float) -> int:
    """Long enough that a kill meets calls in flight."""
    time.sleep(seconds)
    return os.getpid()


if __name__ == "__main__":
    plugin.run()
