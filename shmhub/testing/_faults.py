"""Plugins that die exactly where a test wants it: at their n-th message. The test's side."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from shmhub.plugin._target import Target, TargetArgument
from shmhub.testing import _dying

if TYPE_CHECKING:
    from shmhub import PluginHandle, PluginHost, aio
    from shmhub.plugin._aio import AsyncPluginHandle

__all__ = ["Faults", "Place"]

Place = Literal["received", "sending", "sent"]
MOST_MESSAGES = 50_000  # as many bytes as a FIFO surely holds
SUBJECT = str(Path(__file__).with_name("_subject.py"))


class Faults:
    """Kills plugins at a message of the test's choice. A context manager.

    ::

        with Faults() as faults:
            image = faults.spawn(plugin_host, "image.py")
            faults.kill_at(3)
            ...                         # receiving its third call from here kills it

    The plugin's own process looks, each time, whether this message is the one, and kills itself
    right there: no clock, no race. What it otherwise runs at that moment dies with it.

    Messages are counted over all processes that were spawned through this object, and all their
    lives, in the order in which they pass: calls, notifications, answers, errors, items and ends
    of streams. The handshake, pings, cancels and credit do not count.

    Safe from several threads.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="shmhub-testing-")
        self._paths = {place: os.path.join(self._folder, place) for place in _dying.PLACES}
        self._fds: dict[str, int] = {}
        try:
            for place, path in self._paths.items():
                os.mkfifo(path, 0o600)
                # Both ways: opening does not wait for the other side, bytes outlive readers.
                self._fds[place] = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except BaseException:
            self.close()
            raise

    @overload
    def spawn(self, host: PluginHost, target: TargetArgument, **options: Any) -> PluginHandle: ...
    @overload
    def spawn(
        self, host: aio.PluginHost, target: TargetArgument, **options: Any
    ) -> Coroutine[Any, Any, AsyncPluginHandle]: ...

    def spawn(self, host: Any, target: TargetArgument, **options: Any) -> Any:
        """As `host.spawn(target, **options)`, with processes that `kill_at` reaches.

        Args:
            target: a file, module or entry point of a plugin in Python; not a list of arguments.

        Raises:
            TypeError: a program of its own cannot be reached.
            as `PluginHost.spawn`
        """
        found = Target.of(target, python=options.get("python"))
        if found.kind == "program":
            raise TypeError(
                f"Faults.spawn({target!r}): only files, modules and entry points can be made to "
                "die at a message; a program of its own can be killed by its pid"
            )
        told = {
            "fifos": self._paths,
            "options": {"kind": found.kind, "target": found.value},
        }
        env = options.pop("env", None)
        options["env"] = {**(os.environ if env is None else env), _dying.VARIABLE: json.dumps(told)}
        options.setdefault("name", found.name)
        return host.spawn(SUBJECT, **options)

    def kill_at(self, message: int, *, on: Place = "received") -> None:
        """Let the process die (SIGKILL) to which this message happens; once.

        Another call for the same place replaces what was asked for.

        Args:
            message: how many messages from now on, from 1.
            on: "received": it has the message, and has not begun with it; "sending": all is done
                but this message, which is not sent; "sent": the message has been sent, nothing
                after it.

        Raises:
            ValueError: there is no such message or place.
        """
        if on not in self._paths:
            raise ValueError(f"kill_at: on must be one of {', '.join(_dying.PLACES)}, not {on!r}")
        if isinstance(message, bool) or not 1 <= message <= MOST_MESSAGES:
            raise ValueError(f"kill_at: message must be 1 to {MOST_MESSAGES}, not {message!r}")
        self._empty(on)
        os.write(self._fds[on], _dying.PASS * (message - 1) + _dying.KILL)

    def disarm(self) -> bool:
        """Let all live.

        Returns:
            whether one was still to die.
        """
        left = [self._empty(place) for place in self._fds]
        return any(left)

    def _empty(self, place: str) -> bool:
        left = b""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._fds[place], MOST_MESSAGES):
                left += chunk
        return _dying.KILL in left

    def close(self) -> None:
        """Disarm, and remove what this object needs; idempotent. Plugins live on."""
        if self._fds:
            self.disarm()
        while self._fds:
            os.close(self._fds.popitem()[1])
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
