"""The pytest plugin: fixtures that give a hub or a plugin host and fail on what is left of it.

Loaded by `pytest -p shmhub.testing` or `pytest_plugins = ["shmhub.testing"]`, never by itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

from shmhub import HubConfig, HubHost, PluginHost
from shmhub.testing import _processes
from shmhub.testing._leaks import PATIENCE, LeakError, Snapshot, wait_for_slots
from shmhub.testing._needs import need

if TYPE_CHECKING:
    import pytest
else:
    pytest = need("pytest", "shmhub.testing as a plugin of pytest")

__all__ = ["hub", "hub_config", "plugin_host", "plugin_host_options"]

MARKER = (
    "shmhub(config=None, patience=5.0, **options): the HubConfig of the fixtures hub and "
    "plugin_host, seconds that what is on its way back may take, and options of PluginHost"
)
SHORT = 1.0  # seconds, where it is known already that something is left

_PASSED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.fixture
def hub_config(request: pytest.FixtureRequest) -> HubConfig | None:
    """The config of `hub` and `plugin_host`: the marker's, else the default. Yours to override."""
    config: HubConfig | None = _marked(request).get("config")
    return config


@pytest.fixture
def plugin_host_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Keywords of `PluginHost` for `plugin_host`: the marker's. Yours to override."""
    marked = _marked(request)
    return {name: marked[name] for name in marked.keys() - {"config", "patience"}}


@pytest.fixture
def hub(request: pytest.FixtureRequest, hub_config: HubConfig | None) -> Iterator[HubHost]:
    """A `HubHost`. When the test has passed, fails it if anything is left.

    That is: slots in use (each is named with its state and owner), processes that were started,
    descriptors and mappings. Processes that are left are killed, so that the next test has peace.
    """
    before = Snapshot.take()
    made = HubHost.create(config=hub_config)
    try:
        yield made
        left = _slots_left(request, made)
    finally:
        made.close()
    _check(request, before, left)


@pytest.fixture
def plugin_host(
    request: pytest.FixtureRequest,
    hub_config: HubConfig | None,
    plugin_host_options: dict[str, Any],
) -> Iterator[PluginHost]:
    """A `PluginHost`, checked as `hub` is; slots are looked at while its plugins still live."""
    before = Snapshot.take()
    made = PluginHost(hub_config, **plugin_host_options)
    try:
        yield made
        left = _slots_left(request, made)
    finally:
        # Calls of a test that has failed are not waited for.
        made.close(timeout=None if _has_passed(request) else 0)
    _check(request, before, left)


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the markers say, the closest first."""
    found: dict[str, Any] = {}
    for marker in request.node.iter_markers("shmhub"):
        if marker.args:
            raise TypeError(f"@pytest.mark.shmhub takes keywords only, not {marker.args!r}")
        found = {**marker.kwargs, **found}
    return found


def _has_passed(request: pytest.FixtureRequest) -> bool:
    return bool(request.node.stash.get(_PASSED, False))


def _patience(request: pytest.FixtureRequest) -> float:
    return float(_marked(request).get("patience", PATIENCE))


def _slots_left(request: pytest.FixtureRequest, host: HubHost | PluginHost) -> list[str]:
    """Slots in use at the end of a test that has passed and has not closed its hub."""
    if not _has_passed(request) or host.closed:
        return []
    try:
        wait_for_slots(host, patience=_patience(request))
    except LeakError as error:
        return error.leaks
    return []


def _check(request: pytest.FixtureRequest, before: Snapshot, left: list[str]) -> None:
    """Everything is closed."""
    if not _has_passed(request):
        return  # its traceback keeps everything alive, and it has failed already
    try:
        before.check(SHORT if left else _patience(request))
    except LeakError as error:
        left = left + error.leaks
        for pid in before.new_children():
            _processes.kill(pid)
    if left:
        raise LeakError(left) from None
