"""Strategies for hypothesis: payloads, values, arrays and hubs that find mistakes.

::

    from shmhub.testing import strategies

    @given(strategies.payloads())
    def test_it_comes_back(payload): ...
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from shmhub import DEFAULT_SIZE_CLASSES, HubConfig, SizeClass
from shmhub.testing._needs import need

if TYPE_CHECKING:
    from hypothesis import strategies as st
else:
    st = need("hypothesis.strategies", "shmhub.testing.strategies")

__all__ = ["arrays", "hub_configs", "payload_sizes", "payloads", "plain_values"]

INLINE_EDGES = (16, 240)
"""Bytes that travel in a descriptor, and in a ring; what is longer needs a slot."""
LARGEST = 1 << 20
ALIGNMENT = 64


def payload_sizes(config: HubConfig | None = None, *, max_size: int = LARGEST) -> Any:
    """Sizes in bytes, most of them on one of the edges where payloads change their way.

    Edges are those of what travels inline, and of the size classes.

    Args:
        config: whose size classes; None: the default's.
        max_size: the largest size.
    """
    classes = DEFAULT_SIZE_CLASSES if config is None else config.size_classes
    edges = [0, 1, *INLINE_EDGES, *(one.slot_size for one in classes), max_size]
    around = {edge + step for edge in edges for step in (-1, 0, 1)}
    fitting = sorted(size for size in around if 0 <= size <= max_size)
    return st.sampled_from(fitting) | st.integers(0, min(max_size, 5000))


@st.composite
def payloads(draw: st.DrawFn, config: HubConfig | None = None, *, max_size: int = LARGEST) -> bytes:
    """Bytes of `payload_sizes`; the content is random, so that no piece is like another.

    Args:
        config: whose size classes; None: the default's.
        max_size: bytes of the largest.
    """
    size = draw(payload_sizes(config, max_size=max_size))
    seed = draw(st.integers(0, 255))
    return random.Random(seed).randbytes(size) if seed else bytes(size)


@st.composite
def hub_configs(draw: st.DrawFn, *, max_peers: int = 8, max_slots: int = 8) -> HubConfig:
    """Hubs that are small, so that they run out of things: one to four classes with few slots.

    Args:
        max_peers: ids at most, the host's included.
        max_slots: slots at most that a class begins with.
    """
    units = draw(st.lists(st.integers(1, 32), min_size=1, max_size=4))
    classes = []
    for slot_size in accumulate(_stretched(units)):
        slots = draw(st.integers(1, max_slots))
        classes.append(SizeClass(slot_size, slots, slots * draw(st.sampled_from((1, 1, 2)))))
    return HubConfig(
        size_classes=tuple(classes),
        max_peers=draw(st.integers(2, max_peers)),
        ring_capacity=draw(st.sampled_from((8, 16, 64))),
        spin=draw(st.sampled_from((None, 0.0))),
    )


def _stretched(units: Iterable[int]) -> list[int]:
    """Distances between slot sizes: a class of the 64s first, then whole pages."""
    small, *large = units
    first = small * ALIGNMENT
    return [first, *(one * 4096 - (first if index == 0 else 0) for index, one in enumerate(large))]


def plain_values(*, max_leaves: int = 20, allow_nan: bool = False) -> Any:
    """What `codec="plain"` carries: None, bool, numbers, str, bytes-likes, list, tuple, dict.

    They arrive as they were sent: `==` holds, and so do the types.

    Args:
        max_leaves: values at most that are no containers.
        allow_nan: not-a-number as well, which is not equal to itself.
    """
    keys = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(max_size=20)
        | st.binary(max_size=20)
    )
    leaves = (
        keys
        | st.floats(allow_nan=allow_nan)
        | st.text()
        | payloads(max_size=5000)
        | st.binary(max_size=300).map(bytearray)
    )

    def containers(values: Any) -> Any:
        return (
            st.lists(values, max_size=5)
            | st.lists(values, max_size=5).map(tuple)
            | st.dictionaries(keys | st.tuples(keys, keys), values, max_size=5)
        )

    return st.recursive(leaves, containers, max_leaves=max_leaves)


def arrays(*, max_side: int = 40, max_dims: int = 3) -> Any:
    """ndarrays of numbers in C or Fortran order, some of them empty, some not contiguous.

    Args:
        max_side: length of a dimension at most.
        max_dims: dimensions at most.

    Raises:
        ImportError: numpy is not installed.
    """
    numpy: Any = need("numpy", "shmhub.testing.strategies.arrays", "numpy")
    from hypothesis.extra import numpy as extra

    numbers = st.sampled_from(("u1", "i2", "<i4", ">i4", "i8", "f4", "f8", "c8", "?"))
    shapes = extra.array_shapes(min_dims=1, max_dims=max_dims, min_side=0, max_side=max_side)

    def made(dtype: str, shape: tuple[int, ...], seed: int) -> Any:
        return numpy.random.default_rng(seed).integers(0, 120, size=shape).astype(dtype)

    def arranged(array: Any) -> Any:
        return st.sampled_from((array, array.T, array[::2], numpy.asfortranarray(array)))

    return st.builds(made, numbers, shapes, st.integers(0, 255)).flatmap(arranged)
