"""Arrays to a plugin and back: the result may lie in the slot that the argument came in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import shmhub
from tests.support.plugins import events, host, host_with
from tests.support.stage import fixed
from tests.support.waiting import until

__all__ = ["events", "host"]  # fixtures

pytestmark = pytest.mark.time_limit(120)

SOURCE = """
import threading
import numpy as np
import shmhub

plugin = shmhub.Plugin("arrays")
kept = []

@plugin.method
def same(array):
    return array

@plugin.method
def keep(array):
    kept.append(array)
    return array

@plugin.method
def part(array):
    return array[: len(array) // 2]

@plugin.method
def first(array):
    return array[:20_000]

@plugin.method
def both(first, second):
    return first, second

@plugin.method
def mixed(array):
    return {"array": array, "sum": int(array.sum()), "more": np.ones(len(array), np.uint8)}

@plugin.method
async def same_async(array):
    return array

@plugin.method
def sums():
    return [int(one.sum()) for one in kept]

if __name__ == "__main__":
    plugin.run()
"""


@pytest.fixture
def arrays(host: shmhub.PluginHost, tmp_path: Path) -> shmhub.PluginHandle:
    path = tmp_path / "arrays.py"
    path.write_text(SOURCE)
    return host.spawn(str(path))


@pytest.mark.parametrize("size", [1_000, 20_000, 1 << 20, 5_000_000])
def test_they_come_back_as_they_went(arrays: shmhub.PluginHandle, size: int) -> None:
    rng = np.random.default_rng(size)
    first, second = (rng.integers(0, 256, size, np.uint8) for _ in range(2))
    results = [arrays.same(first), arrays.same_async(first), arrays.keep(first)]
    results += arrays.both(first, second)[:1]
    for number, result in enumerate(results):
        assert type(result) is np.ndarray, number
        assert result.dtype == first.dtype
        assert np.array_equal(result, first), number
    assert np.array_equal(arrays.both(first, second)[1], second)
    assert np.array_equal(arrays.part(first), first[: size // 2])
    mixed = arrays.mixed(first)
    assert np.array_equal(mixed["array"], first)
    assert mixed["sum"] == int(first.sum())
    assert np.array_equal(mixed["more"], np.ones(size, np.uint8))


def test_what_the_plugin_keeps_stays_as_it_was(arrays: shmhub.PluginHandle) -> None:
    values = [np.full(100_000, number, np.uint8) for number in range(6)]
    for value in values:
        assert np.array_equal(arrays.keep(value), value)
    for value in values:  # others' slots are used again meanwhile
        assert np.array_equal(arrays.same(value), value)
    assert arrays.sums() == [int(one.sum()) for one in values]


def test_results_of_two_replicas_that_are_held_do_not_mix(
    host: shmhub.PluginHost, tmp_path: Path
) -> None:
    path = tmp_path / "arrays.py"
    path.write_text(SOURCE)
    arrays = host.spawn(str(path), replicas=2)
    values = [np.full(300_000, number % 251, np.uint8) for number in range(40)]
    futures = [arrays.submit("same", value) for value in values]
    results = [future.result(60) for future in futures]
    for value, result in zip(values, results, strict=True):
        assert np.array_equal(result, value)


def test_with_slots_for_none_or_few_they_come_back_all_the_same(
    leak_check: None, tmp_path: Path
) -> None:
    """The plugin holds more than its share, then all there are: copies, then messages in parts."""
    path = tmp_path / "arrays.py"
    path.write_text(SOURCE)
    config = fixed((1024, 4), (1 << 20, 3), ring_capacity=16, max_peers=3)
    with host_with(config=config) as host:
        arrays = host.spawn(str(path))
        for number in range(8):
            value = np.full(300_000, number, np.uint8)
            assert np.array_equal(arrays.keep(value), value)
            assert np.array_equal(arrays.same(value), value)
        assert arrays.sums() == [300_000 * number for number in range(8)]


def owned(host: shmhub.PluginHost) -> int:
    return sum(one.owned + one.in_ring for one in host.statistics().size_classes)


def test_bytes_give_their_slot_back_before_the_method_runs(
    host: shmhub.PluginHost, tmp_path: Path
) -> None:
    path = tmp_path / "slots.py"
    path.write_text(
        "import shmhub\n"
        "plugin = shmhub.Plugin('slots')\n"
        "@plugin.method\n"
        "def during(data):\n"
        "    return plugin.host.owned()\n"
        "if __name__ == '__main__':\n"
        "    plugin.run()\n"
    )
    host.callback(lambda: owned(host), name="owned")
    slots = host.spawn(str(path))
    assert slots.during(bytes(1 << 20)) == 0
    assert slots.during(np.zeros(1 << 20, np.uint8)) == 1
    assert owned(host) == 0


def test_a_small_part_of_a_large_argument_comes_in_a_small_slot(
    arrays: shmhub.PluginHandle, host: shmhub.PluginHost
) -> None:
    value = np.full(20 << 20, 7, np.uint8)
    small = arrays.first(value)
    assert np.array_equal(small, value[:20_000])

    def sizes() -> list[int]:
        return [one.slot_size for one in host.statistics().size_classes if one.owned]

    # The plugin lets go of the large one when it has answered.
    until(lambda: max(sizes()) < len(value), "the argument's slot to be free")
