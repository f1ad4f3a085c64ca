"""A plugin that is a host itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import shmhub

plugin = shmhub.Plugin("nesting")
inner: list[Any] = []


@plugin.on_startup
def start() -> None:
    host = shmhub.PluginHost(echo=False)
    inner.extend([host, host.spawn(Path(__file__).with_name("zoo.py"))])


@plugin.on_shutdown
def stop() -> None:
    inner[0].close()


@plugin.method
def inner_process() -> int:
    return int(inner[1].process())


@plugin.method
def through(value: Any) -> Any:
    return inner[1].echo(value)
