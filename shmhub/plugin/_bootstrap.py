"""What `spawn` runs in a new Python for files, modules and entry points: load the plugin, serve it.

The program itself is `__main__.py`, which also runs where shmhub cannot be imported; from here on
it can.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
import io
import os
import signal
import sys
import traceback
from types import ModuleType
from typing import Any

from shmhub._native import core
from shmhub.plugin._exec import apply_limits
from shmhub.plugin._runtime import GRACE_SECONDS, OPTIONS_VARIABLE, Plugin

__all__ = ["main"]

FAILED = 3
RAISED = 1  # as Python itself
MALLOC_TOLD = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


class _NotAPlugin(Exception):
    """What is wrong with the target, for its author."""


def main(options: dict[str, Any], arguments: list[str]) -> int:
    """Serve what `options` name; the exit status.

    Args:
        options: from `Target.options`.
        arguments: the command line behind the target, the hub's own among it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the host's, also while this one starts
    # A crash, or a watchdog's SIGABRT, then shows where everybody was.
    faulthandler.enable()
    if not core.die_with_parent(options["parent"], GRACE_SECONDS):
        return FAILED  # the host is gone already
    if not any(name in os.environ for name in MALLOC_TOLD):
        core.keep_freed_memory()
    # A pipe makes print() wait for a full buffer; here lines are read as they come.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        apply_limits(options["limits"])
    except (OSError, ValueError) as error:
        sys.stderr.write(f"cannot set the limits {options['limits']!r}: {error}\n")
        return FAILED
    os.environ.pop(OPTIONS_VARIABLE, None)
    try:
        plugin = _load(options, arguments)
        if plugin is not None:
            plugin.run(arguments)
    except _NotAPlugin as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    except Exception as error:
        _show(error)
        return RAISED
    return 0


def _load(options: dict[str, Any], arguments: list[str]) -> Plugin | None:
    """The plugin, or None: it has run already, while its file was imported."""
    kind, target = options["kind"], options["target"]
    if kind == "entry_point":
        target = _entry_point(target)
    if kind == "file":
        sys.argv = [target, *arguments]
        return _plugin_of_file(target, options)
    module_name, _, attribute = target.partition(":")
    sys.argv = [module_name, *arguments]
    Plugin._given_options = options
    found: Any = importlib.import_module(module_name)
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise _NotAPlugin(f"module {module_name!r} has nothing named {attribute!r}") from None
    if not isinstance(found, Plugin):
        raise _NotAPlugin(f"{target} is not a plugin (shmhub.Plugin), but {_kind_of(found)}")
    return None if found._has_run else found


def _entry_point(name: str) -> str:
    from importlib.metadata import entry_points

    points = entry_points(group="shmhub.plugins")
    for point in points:
        if point.name == name:
            return point.value
    known = ", ".join(sorted({point.name for point in points})) or "there are none"
    raise _NotAPlugin(f"there is no entry point {name!r} in the group shmhub.plugins ({known})")


def _plugin_of_file(path: str, options: dict[str, Any]) -> Plugin | None:
    """Import a file under its own name, so that its classes are known by that to others, too."""
    sys.path.insert(0, os.path.dirname(path))
    name = os.path.splitext(os.path.basename(path))[0]
    if name in sys.modules or name in sys.stdlib_module_names:
        name = f"{name}__plugin"  # "queue.py" shall not replace the module of that name
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        # Not ".py": source all the same.
        from importlib.machinery import SourceFileLoader

        spec = importlib.util.spec_from_loader(name, SourceFileLoader(name, path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    Plugin._given_options = options
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ValueError, UnicodeDecodeError) as error:
        if isinstance(error, SyntaxError) or "null bytes" in str(error):
            raise _NotAPlugin(f"{path} is not a Python program: {error}") from None
        raise
    return _only_plugin(module, path)


def _only_plugin(module: ModuleType, path: str) -> Plugin | None:
    found = {id(one): one for one in vars(module).values() if isinstance(one, Plugin)}
    if any(one._has_run for one in found.values()):
        return None
    named = vars(module).get("plugin")
    if isinstance(named, Plugin):
        return named
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise _NotAPlugin(
            f"{path} is not a plugin: it has no shmhub.Plugin at its top level (plugin = "
            "shmhub.Plugin('name'))"
        )
    raise _NotAPlugin(
        f"{path} has {len(found)} plugins at its top level; name one of them 'plugin', or spawn "
        "'module:name'"
    )


def _show(error: Exception) -> None:
    """The traceback without what lies between us and the plugin's own file."""
    trace = error.__traceback__
    while trace is not None and (
        trace.tb_frame.f_code.co_filename == __file__
        or trace.tb_frame.f_globals.get("__name__", "").startswith("importlib.")
    ):
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace or error.__traceback__)


def _kind_of(thing: Any) -> str:
    return f"a {type(thing).__module__}.{type(thing).__qualname__}"
