"""`shmhub.testing` as it is imported, and its strategies."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

import shmhub
import shmhub.testing
from shmhub._rpc import get_codec
from shmhub.testing import strategies

FREELY = settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_all_names_exist_and_are_documented() -> None:
    for name in shmhub.testing.__all__:
        assert getattr(shmhub.testing, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'strategy'"):
        shmhub.testing.strategy  # type: ignore[attr-defined]  # noqa: B018 - the access is the test
    for name in strategies.__all__:
        assert getattr(strategies, name).__doc__, name


def test_importing_it_imports_neither_pytest_nor_hypothesis() -> None:
    code = "import sys, shmhub.testing; print({'pytest', 'hypothesis', 'numpy'} & set(sys.modules))"
    assert run(code) == "set()"


@pytest.mark.parametrize(
    ("module", "used"),
    [
        ("hypothesis", "from shmhub.testing import PluginMachine"),
        ("hypothesis", "from shmhub.testing import strategies"),
        ("pytest", "import shmhub.testing._fixtures"),
        ("numpy", "from shmhub.testing import strategies; strategies.arrays()"),
    ],
)
def test_what_is_missing_is_named_with_its_extra(module: str, used: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"try:\n    {used}\n"
        "except ImportError as error: print(error.name, '|', error)"
    )
    name, _, text = run(code).partition(" | ")
    assert name == module
    assert f"needs {module}" in text
    package = "numpy" if module == "numpy" else "'shmhub[testing]'"
    assert text.endswith(f"pip install {package}")


@FREELY
@given(strategies.hub_configs(max_peers=6, max_slots=3))
def test_configs_are_small(config: shmhub.HubConfig) -> None:
    assert config.max_peers <= 6  # valid they are, or HubConfig had raised
    assert all(one.slots <= 3 for one in config.size_classes)
    assert config.size_classes[-1].slot_size <= 1 << 20


@FREELY
@given(st.data())
def test_payloads_keep_within_their_bounds(data: st.DataObject) -> None:
    most = data.draw(st.integers(0, 100_000))
    assert len(data.draw(strategies.payloads(max_size=most))) <= most
    assert 0 <= data.draw(strategies.payload_sizes(max_size=most)) <= most


@pytest.mark.parametrize("size", [0, 16, 17, 240, 241, 1024, 1025, 16385, 300_000])
def test_each_edge_is_tried(size: int) -> None:
    config = shmhub.HubConfig(size_classes=(shmhub.SizeClass(1024, 1), shmhub.SizeClass(16384, 1)))
    find(
        strategies.payload_sizes(config, max_size=300_000),
        lambda found: found == size,
        settings=settings(max_examples=5000, database=None),
    )


@FREELY
@given(strategies.plain_values())
def test_plain_values_are_what_the_plain_codec_carries(value: Any) -> None:
    from shmhub._rpc._payload import Message, decode, encode

    codec = get_codec("plain")
    encoded = encode(value, codec)

    class Frame:
        channel = method = message_id = peer_id = 0
        deadline = None
        flags = encoded.flags

    again = decode(Message(Frame, encoded.joined()), codec)
    assert again == value
    assert type(again) is type(value)


@FREELY
@given(strategies.arrays(max_side=5, max_dims=2))
def test_arrays_are_arrays(array: Any) -> None:
    assert isinstance(array, numpy.ndarray)
    assert array.ndim <= 2
    assert max(array.shape) <= 5


@pytest.mark.parametrize(
    "kind",
    [
        lambda array: array.size == 0,
        lambda array: not array.flags.c_contiguous and not array.flags.f_contiguous,
        lambda array: array.dtype.byteorder == ">",
    ],
)
def test_arrays_are_of_all_kinds(kind: Any) -> None:
    find(strategies.arrays(), kind, settings=settings(max_examples=2000, database=None))
