"""Fixtures for all tests: a time limit each, processes that always end, nothing left behind."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

# numpy's own threads would show up as left-over threads, and forked children could not use them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# At the end of the path: see tests.support.environment.make_importable.
_ROOT = str(Path(__file__).resolve().parents[1])
if _ROOT not in sys.path:
    sys.path.append(_ROOT)

from tests.support import environment, leaks, watchdog  # noqa: E402 - needs the path above

_DEFAULT_LIMIT = 120.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the long variants of the load tests")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "time_limit(seconds): instead of the default of 120 s")
    if config.getoption("--full"):
        os.environ["SHMHUB_FULL"] = "1"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _watchdog() -> watchdog.Watchdog:
    return watchdog.Watchdog()


@pytest.fixture(autouse=True)
def time_limit(request: pytest.FixtureRequest, _watchdog: watchdog.Watchdog) -> Iterator[None]:
    """Ends a test that hangs, with everything one needs to find out why."""
    marker = request.node.get_closest_marker("time_limit")
    limit = float(marker.args[0]) if marker else _DEFAULT_LIMIT
    _watchdog.arm(request.node.nodeid, limit)
    try:
        yield
    finally:
        _watchdog.disarm()


@pytest.fixture(scope="session")
def nursery(_watchdog: watchdog.Watchdog) -> Iterator[object]:
    # Imported late: unit tests run where there is no support for hubs.
    from tests.support.nursery import Nursery

    made = Nursery()
    # What is imported by now stays; every leak check collects garbage and need not look at it.
    gc.collect()
    gc.freeze()
    yield made
    made.close()


_CALL_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_CALL_FAILED] = report.failed
    return report


@pytest.fixture
def leak_check(request: pytest.FixtureRequest, nursery: object) -> Iterator[None]:
    """Fails a test that leaves descriptors, mappings, threads, children or files behind."""
    before = leaks.Snapshot.take()
    yield
    if request.node.stash.get(_CALL_FAILED, False):
        return  # its traceback keeps everything alive, and it has failed already
    # Frames and arrays that the test itself still names are not leaks.
    request.node.funcargs.clear()
    leaks.assert_nothing_left(before)


@pytest.fixture
def stage(leak_check: None, nursery: object) -> Iterator[object]:
    """Where a test sets up its hosts and peers (``tests.support.stage.Stage``)."""
    from tests.support.nursery import Nursery
    from tests.support.stage import Stage

    assert isinstance(nursery, Nursery)
    made = Stage(nursery)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def rng() -> random.Random:
    """Randomness that can be repeated: the seed is printed when the test fails."""
    seed = environment.choose_seed()
    print(f"SHMHUB_SEED={seed}")
    return random.Random(seed)
