"""What a plugin host tells of its plugins' lives, and the status it shows. Pure data."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["EventKind", "PluginEvent", "ReplicaStatus", "State"]

EventKind = Literal["started", "ready", "died", "restarting", "failed", "stopped"]
State = Literal["starting", "ready", "restarting", "stopping", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginEvent:
    """Something happened to one replica of a plugin.

    Attributes:
        kind: "started": its process runs; "ready": it takes calls; "died": its process ended and
            was not asked to; "restarting": it will be started again in `delay` seconds; "failed":
            it will not be started again; "stopped": it ended as it was asked to.
        plugin: the plugin's name.
        replica: its number, from 0.
        pid: of the process that this is about, if there was one.
        exitcode, signal: how it ended; one of them is set with "died" and "stopped".
        restarts: how often this replica was started again so far.
        delay: seconds until the restart.
        reason: in words, with "died" and "failed".
        stderr_tail: the last lines of its standard error, with "died" and "failed".
        time: `time.time()`.
    """

    kind: EventKind
    plugin: str
    replica: int
    pid: int | None = None
    exitcode: int | None = None
    signal: int | None = None
    restarts: int = 0
    delay: float = 0.0
    reason: str = ""
    stderr_tail: str = ""
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica as it is just now.

    Attributes:
        index: its number, from 0.
        pid: of its process, if there is one.
        calls: on their way to it, or running there.
        restarts: since it was spawned.
    """

    index: int
    state: State
    pid: int | None
    calls: int
    restarts: int
