"""Helpers for tests of programs that use shmhub. Needs the extra: `pip install shmhub[testing]`.

As a plugin of pytest (`pytest -p shmhub.testing`, or `pytest_plugins = ["shmhub.testing"]` in a
conftest.py) it gives the fixtures `hub` and `plugin_host`, which fail a test that leaves slots,
descriptors or processes behind. `assert_no_leaks` does the same without pytest.

`Faults` kills a plugin at its n-th message, `stopped` stops it for a while, `exhausted` takes all
slots. `strategies` has strategies for hypothesis, `PluginMachine` a state machine to derive from.
See docs/testing.md.

PYTEST_DONT_REWRITE: there are no assertions here for pytest to explain.
"""

# General layout, lowest first:
#
#   _needs  _processes  _slots      pytest and hypothesis, /proc, the file of a hub
#   _leaks                          what was left behind
#   _stopping  _exhausting  _faults faults from outside; _subject and _dying are in the plugin
#   strategies                      needs hypothesis
#   _machine                        all of it together
#   _fixtures                       needs pytest

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmhub.testing._exhausting import Hoard, exhausted
from shmhub.testing._faults import Faults
from shmhub.testing._leaks import LeakError, assert_no_leaks, wait_for_slots
from shmhub.testing._slots import SlotInUse, slots_in_use
from shmhub.testing._stopping import stopped

if TYPE_CHECKING:
    from shmhub.testing import strategies
    from shmhub.testing._machine import PluginMachine

__all__ = [
    "Faults",
    "Hoard",
    "LeakError",
    "PluginMachine",
    "SlotInUse",
    "assert_no_leaks",
    "exhausted",
    "slots_in_use",
    "stopped",
    "strategies",
    "wait_for_slots",
]

# Where pytest looks for fixtures when this package is loaded as its plugin: pytest itself is
# imported by that alone.
pytest_plugins = ("shmhub.testing._fixtures",)


def __getattr__(name: str) -> Any:
    import importlib

    if name == "strategies":
        return importlib.import_module("shmhub.testing.strategies")
    if name == "PluginMachine":
        return importlib.import_module("shmhub.testing._machine").PluginMachine
    raise AttributeError(f"module 'shmhub.testing' has no attribute {name!r}")
