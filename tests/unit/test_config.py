"""Sizes and limits of a hub: every field checked, and the message says the range."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmhub._config import DEFAULT_SIZE_CLASSES, HubConfig, SizeClass

MIB = 1 << 20


def test_the_defaults_are_those_of_the_design() -> None:
    table = [(one.slot_size, one.slots, one.max_slots) for one in DEFAULT_SIZE_CLASSES]
    assert table == [
        (1024, 1024, 4096),
        (16 * 1024, 256, 1024),
        (256 * 1024, 32, 128),
        (4 * MIB, 8, 32),
        (16 * MIB, 4, 16),
        (64 * MIB, 0, 32),
        (256 * MIB, 0, 8),
        (1024 * MIB, 0, 4),
    ]
    assert sum(size * slots for size, slots, _ in table) == 109 * MIB
    config = HubConfig()
    assert (config.max_peers, config.ring_capacity) == (32, 256)
    assert (config.max_bytes, config.spin) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((63, 1), "slot_size must be from 64 to 1073741824 bytes, not 63"),
        ((0, 1), "slot_size must be from 64"),
        ((-64, 1), "slot_size must be from 64"),
        (((1 << 30) + 4096, 1), "to 1073741824 bytes"),
        ((65, 1), "multiple of 64"),
        ((4096 + 64, 1), "of 4096 from there on"),
        ((1024, -1), "slots must be from 0 to 16777215, not -1"),
        ((1024, 1 << 24), "slots must be from 0 to 16777215"),
        ((1024, 1, 1 << 24), "max_slots must be from 0 to 16777215"),
        ((1024, 4, 3), r"slots must be at most max_slots \(3\), not 4"),
        ((1024, 0), "must say its max_slots"),
    ],
)
def test_size_class_ranges(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SizeClass(*arguments)


@pytest.mark.parametrize("wrong", [1.0, "1024", None, True])
def test_size_class_types(wrong: Any) -> None:
    with pytest.raises(TypeError, match="slot_size must be an integer from 64"):
        SizeClass(wrong, 1)
    if wrong is not None:
        with pytest.raises(TypeError, match="max_slots must be an integer"):
            SizeClass(1024, 1, wrong)


@pytest.mark.parametrize("slot_size", [64, 128, 4032, 4096, 8192, 1 << 30])
def test_size_class_limits_are_allowed(slot_size: int) -> None:
    one = SizeClass(slot_size, 1, (1 << 24) - 1)
    assert (one.slot_size, one.limit) == (slot_size, (1 << 24) - 1)


def test_growth_by_default_is_four_times_and_ends_below_the_limit() -> None:
    assert SizeClass(1024, 10).max_slots == 40
    assert SizeClass(1024, (1 << 24) - 1).max_slots == (1 << 24) - 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size_classes": ()}, "size_classes must be from 1 to 8, not 0"),
        ({"size_classes": [SizeClass(64 * n, 1) for n in range(1, 10)]}, "1 to 8, not 9"),
        ({"size_classes": [SizeClass(128, 1), SizeClass(64, 1)]}, "ascend.*128 comes before 64"),
        ({"size_classes": [SizeClass(64, 1), SizeClass(64, 1)]}, "ascend"),
        ({"max_peers": 1}, "max_peers must be from 2 to 64, not 1"),
        ({"max_peers": 65}, "max_peers must be from 2 to 64, not 65"),
        ({"ring_capacity": 4}, "ring_capacity must be from 8 to 65536 cells, not 4"),
        ({"ring_capacity": 131072}, "ring_capacity must be from 8 to 65536 cells"),
        ({"ring_capacity": 100}, "power of two from 8 to 65536 cells, not 100"),
        ({"max_bytes": MIB - 1}, "max_bytes must be from 1048576"),
        ({"spin": -0.1}, "seconds from 0 to 1, not -0.1"),
        ({"spin": 1.5}, "seconds from 0 to 1, not 1.5"),
        ({"spin": float("nan")}, "seconds from 0 to 1, not nan"),
    ],
)
def test_config_ranges(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HubConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"size_classes": SizeClass(64, 1)},
        {"size_classes": 5},
        {"size_classes": [(64, 1, 1)]},
        {"max_peers": 2.0},
        {"max_peers": True},
        {"ring_capacity": "8"},
        {"max_bytes": 2e6},
        {"spin": "fast"},
        {"spin": True},
    ],
)
def test_config_types(fields: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(fields))):
        HubConfig(**fields)


def test_config_is_frozen_hashable_and_comparable() -> None:
    config = HubConfig(size_classes=[SizeClass(64, 1)])  # type: ignore[arg-type]
    assert config.size_classes == (SizeClass(64, 1, 4),)
    assert hash(config) == hash(HubConfig(size_classes=(SizeClass(64, 1),)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_peers = 3  # type: ignore[misc]
    assert dataclasses.replace(config, max_peers=3).max_peers == 3
    with pytest.raises(ValueError, match="max_peers"):
        dataclasses.replace(config, max_peers=99)


@pytest.mark.parametrize(
    ("spin", "nanoseconds"), [(None, -1), (0, 0), (0.0, 0), (1e-6, 1000), (1, 1_000_000_000)]
)
def test_spin_for_the_core(spin: float | None, nanoseconds: int) -> None:
    assert HubConfig(spin=spin).to_core()[-1] == nanoseconds


size_classes = st.lists(
    st.tuples(
        st.one_of(
            st.integers(1, 63).map(lambda n: 64 * n),
            st.integers(1, 1 << 18).map(lambda n: 4096 * n),
        ),
        st.integers(1, 1000),
        st.integers(0, 1000),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda one: one[0],
).map(lambda some: tuple(SizeClass(a, b, b + c) for a, b, c in sorted(some)))


@given(
    size_classes,
    st.integers(2, 64),
    st.integers(3, 16),
    st.none() | st.integers(MIB, 1 << 40),
    st.none() | st.integers(0, 10**9).map(lambda ns: ns / 10**9),
)
def test_what_the_core_is_told_comes_back(
    classes: tuple[SizeClass, ...],
    max_peers: int,
    ring_bits: int,
    max_bytes: int | None,
    spin: float | None,
) -> None:
    config = HubConfig(classes, max_peers, 1 << ring_bits, max_bytes, spin)
    assert HubConfig.from_core(config.to_core()) == config
