"""Plugins: `Plugin` on their side, `PluginHost` on the host's.

Each side imports only what it needs: a plugin has no use for what starts and watches processes.
"""

# Lowest first:
#
#   _names _restart _events _limits _exec _loop _workers _output _target     each for itself
#   _interface _death                                                        words and comparisons
#   _runtime  _bootstrap  __main__         the plugin's side
#   _future  _dispatch                     calls: which replica, what becomes of them
#   _process  _replica  _replicas          lives: started, watched, ended
#   _site                                  what all plugins of a host share
#   _handle  _host                         what users hold

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmhub.plugin._events import PluginEvent, ReplicaStatus
    from shmhub.plugin._handle import PluginHandle
    from shmhub.plugin._host import PluginHost
    from shmhub.plugin._restart import RestartPolicy
    from shmhub.plugin._runtime import Plugin

__all__ = [
    "Plugin",
    "PluginEvent",
    "PluginHandle",
    "PluginHost",
    "ReplicaStatus",
    "RestartPolicy",
]

_WHERE = {
    "Plugin": "_runtime",
    "PluginEvent": "_events",
    "PluginHandle": "_handle",
    "PluginHost": "_host",
    "ReplicaStatus": "_events",
    "RestartPolicy": "_restart",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        import importlib

        found = getattr(importlib.import_module(f"shmhub.plugin.{_WHERE[name]}"), name)
        # Tracebacks and reprs name them as users do: shmhub.PluginHost.
        found.__module__ = "shmhub"
        globals()[name] = found
        return found
    raise AttributeError(f"module 'shmhub.plugin' has no attribute {name!r}")
