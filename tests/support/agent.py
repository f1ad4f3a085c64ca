"""The scriptable program that tests use as a peer (or as a host) in another process.

It executes commands from a control socket, one at a time in its main thread or in a thread each,
and answers each with its result or with the exception itself. Every command is announced with the
thread that runs it before it starts, so that a test can tell when it has fallen asleep in it: no
test needs to guess how long something takes.

The commands ("verbs") live in the other ``agent_*.py`` files.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any

from tests.support import agent_damage, agent_host, agent_load, agent_peer
from tests.support.agent_store import VERBS, Store, WithDescriptors

__all__ = ["Agent", "agent_damage", "agent_host", "agent_load", "agent_peer", "main"]

_MESSAGE_BYTES = 1 << 20
_MOST_FDS = 16


class Agent:
    """Reads commands until the other end of the control socket is closed."""

    def __init__(self, control: socket.socket, store: Store) -> None:
        self._control = control
        self._store = store
        self._sending = threading.Lock()

    def run(self) -> int:
        while not self._store.exiting:
            try:
                data, fds, _flags, _address = socket.recv_fds(
                    self._control, _MESSAGE_BYTES, _MOST_FDS
                )
            except KeyboardInterrupt:
                continue  # it was meant for a command that had just ended
            if not data:
                break
            self._execute(pickle.loads(data), list(fds))
        return self._store.exit_code

    def _execute(self, command: dict[str, Any], fds: list[int]) -> None:
        if command["thread"]:
            threading.Thread(target=self._perform, args=(command, fds), daemon=True).start()
        else:
            self._perform(command, fds)

    def _perform(self, command: dict[str, Any], fds: list[int]) -> None:
        number = command["number"]
        self._answer({"number": number, "begun": threading.get_native_id()})
        try:
            result = VERBS[command["verb"]](self._store, fds, **command["arguments"])
        except (Exception, KeyboardInterrupt) as error:
            self._answer(_describe_failure(number, error))
            del error
        else:
            descriptors: list[int] = []
            if isinstance(result, WithDescriptors):
                result, descriptors = result.result, result.descriptors
            self._answer({"number": number, "result": result}, descriptors)

    def _answer(self, answer: dict[str, Any], fds: list[int] | None = None) -> None:
        data = pickle.dumps(answer)
        with self._sending:
            socket.send_fds(self._control, [data], fds or [])


def _describe_failure(number: int, error: BaseException) -> dict[str, Any]:
    """The exception as it is: all errors of the product can be pickled."""
    text = "".join(traceback.format_exception(error))
    error.__traceback__ = None
    return {"number": number, "error": pickle.dumps(error), "text": text}


def main(*, fds: dict[str, int], set_up: Callable[[Store], None] | None = None) -> int:
    """Entry for the nursery and for ``peer_program.py``."""
    store = Store()
    if set_up is not None:
        set_up(store)
    with socket.socket(fileno=fds["control"]) as control:
        os.set_inheritable(control.fileno(), False)
        code = Agent(control, store).run()
    store.close()
    return code
