"""Every test of this folder runs over each of the six transports."""

from __future__ import annotations

import pytest

from tests.support.sides import KINDS, Pair, make_pair
from tests.support.stage import Stage, fixed


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(stage: Stage, kind: str) -> Pair:
    """The transport under test with an agent at its other end; a ring of 16 cells."""
    config = fixed((1024, 32), (16 * 1024, 16), (1 << 20, 8), ring_capacity=16)
    return make_pair(stage, kind, config)
