"""One shared-memory hub between a host process and its plugins.

The host creates a hub and starts plugins on it::

    import shmhub

    with shmhub.HubHost.create() as host:
        info = host.add_peer("shout")
        process = info.popen([sys.executable, "shout.py"])
        with shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell) as plugin:
            plugin.send(b"hello")
            print(bytes(plugin.recv()))
        process.wait()

and shout.py is::

    with shmhub.HubPeerTransport.from_argv() as host:
        for frame in host:
            host.send(bytes(frame).upper())

Payloads of any size travel in shared memory, without copies where that is asked for; a plugin that
is killed at any moment costs nothing but itself.
"""

# General layout, lowest first; imports point down only (a test checks it):
#
#   _version  _errors                      every exception; the core raises them, too
#   _core                                  the C core (csrc/) and its binding (csrc/python/)
#   _native                                that, or a stand-in where it cannot be built
#   _config  _statistics  _fsck  _argv     plain data
#   _protocols                             what all transports have in common
#   _peer_info                             starting a plugin
#   _host  _peer                           the two sides of a hub
#   _transport                             synchronous transports
#   _rpc                                   calls, answers and streams on them
#   _aio_waiting  aio                      the same for asyncio
#   plugin                                 plugins: what runs, starts and watches them
#   _inspect  _fsck_command  _gc  demo     programs on top
#   testing                                helpers for the tests of those who use it
#   _doctor_probes  _doctor                and what uses those
#   __main__                               the command line

import logging
from typing import TYPE_CHECKING, Any

from shmhub._config import DEFAULT_SIZE_CLASSES, HubConfig, SizeClass
from shmhub._errors import (
    CodecError,
    HostGoneError,
    HubClosedError,
    HubExistsError,
    HubForkedError,
    HubFormatError,
    HubNoSpaceError,
    HubTimeoutError,
    InterfaceError,
    NotAttachedError,
    PayloadTooLargeError,
    PeerGoneError,
    PeerLimitError,
    PeerStateError,
    PluginDiedError,
    PluginMissingMethod,
    PluginStartError,
    ProtocolViolation,
    QueueFullError,
    RemoteError,
    RingFullError,
    ShmhubError,
    SlotsExhaustedError,
    UnsupportedPlatformError,
    WouldBlockError,
)
from shmhub._errors import __all__ as _error_names
from shmhub._fsck import FsckFinding, FsckReport
from shmhub._host import HubHost
from shmhub._native import core as _native_core
from shmhub._peer import HubPeer
from shmhub._peer_info import PeerInfo, SpawnedPeerInfo
from shmhub._protocols import AsyncTransport, Transport
from shmhub._statistics import (
    HubStatistics,
    PeerStatistics,
    PeerStatus,
    SizeClassStatistics,
    TransportStatistics,
)
from shmhub._transport import HubHostPeerTransport, HubHostTransport, HubPeerTransport
from shmhub._version import __version__

if TYPE_CHECKING:
    from shmhub import aio
    from shmhub._rpc import Stream, current_call
    from shmhub.plugin import (
        Plugin,
        PluginEvent,
        PluginHandle,
        PluginHost,
        ReplicaStatus,
        RestartPolicy,
    )


# Tracebacks and reprs name them as users do: shmhub.PeerGoneError.
def _name_as_users_do() -> None:
    for name in _error_names:
        globals()[name].__module__ = __name__


_name_as_users_do()

Doorbell = _native_core.Doorbell
Frame = _native_core.Frame
Slot = _native_core.Slot

__all__ = [
    "DEFAULT_SIZE_CLASSES",
    "AsyncTransport",
    "CodecError",
    "Doorbell",
    "Frame",
    "FsckFinding",
    "FsckReport",
    "HostGoneError",
    "HubClosedError",
    "HubConfig",
    "HubExistsError",
    "HubForkedError",
    "HubFormatError",
    "HubHost",
    "HubHostPeerTransport",
    "HubHostTransport",
    "HubNoSpaceError",
    "HubPeer",
    "HubPeerTransport",
    "HubStatistics",
    "HubTimeoutError",
    "InterfaceError",
    "NotAttachedError",
    "PayloadTooLargeError",
    "PeerGoneError",
    "PeerInfo",
    "PeerLimitError",
    "PeerStateError",
    "PeerStatistics",
    "PeerStatus",
    "Plugin",
    "PluginDiedError",
    "PluginEvent",
    "PluginHandle",
    "PluginHost",
    "PluginMissingMethod",
    "PluginStartError",
    "ProtocolViolation",
    "QueueFullError",
    "RemoteError",
    "ReplicaStatus",
    "RestartPolicy",
    "RingFullError",
    "ShmhubError",
    "SizeClass",
    "SizeClassStatistics",
    "Slot",
    "SlotsExhaustedError",
    "SpawnedPeerInfo",
    "Stream",
    "Transport",
    "TransportStatistics",
    "UnsupportedPlatformError",
    "WouldBlockError",
    "__version__",
    "aio",
    "current_call",
]

logging.getLogger("shmhub").addHandler(logging.NullHandler())


_OF_PLUGIN = frozenset(
    {"Plugin", "PluginEvent", "PluginHandle", "PluginHost", "ReplicaStatus", "RestartPolicy"}
)


def __getattr__(name: str) -> Any:
    # asyncio takes longer to import than all the rest; most plugins never need it.
    if name == "aio":
        import importlib

        return importlib.import_module("shmhub.aio")
    # A plugin needs nothing of what its host needs, and who uses transports alone neither.
    if name in _OF_PLUGIN:
        from shmhub import plugin

        found = globals()[name] = getattr(plugin, name)
        return found
    if name in ("Stream", "current_call"):
        from shmhub import _rpc

        found = globals()[name] = getattr(_rpc, name)
        return found
    raise AttributeError(f"module 'shmhub' has no attribute {name!r}")
