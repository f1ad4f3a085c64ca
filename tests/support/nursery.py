"""Cheap child processes: forked, without exec, from a small process that has never touched a hub.

Starting a Python program costs 50 ms and more, a fork of a process that has everything imported
about one; that is what makes hundreds of kills affordable. Its other half is
``nursery_program.py``.
"""

from __future__ import annotations

import pickle
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.support.environment import python_command
from tests.support.processes import Child

_PROGRAM = Path(__file__).with_name("nursery_program.py")
_MESSAGE_BYTES = 1 << 16


class NurseryChild(Child):
    """A child of the nursery process: only that one can collect its exit status."""

    def __init__(self, nursery: Nursery, pid: int, pidfd: int, stderr: IO[bytes]) -> None:
        self._nursery = nursery
        super().__init__(pid, pidfd, stderr)

    def _reap(self) -> int:
        return self._nursery.reap(self.pid)


class Nursery:
    """The nursery process, as seen by the tests. One thread uses it.

    ``preload``: modules that it imports once, so that no child pays for them.
    """

    def __init__(self, preload: Sequence[str] = ()) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._popen = subprocess.Popen(
                [*python_command(_PROGRAM), str(theirs.fileno()), *preload],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def spawn(
        self, target: str, *, fds: Mapping[str, int] | None = None, **arguments: Any
    ) -> NurseryChild:
        """Forks a child that runs ``target`` ("module:function") with ``arguments``.

        ``fds`` are handed over under their names as keyword ``fds`` (name -> number there).
        """
        given = dict(fds or {})
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - the child's handle owns it
        request = {"op": "spawn", "target": target, "arguments": arguments, "fds": list(given)}
        socket.send_fds(self._socket, [pickle.dumps(request)], [stderr.fileno(), *given.values()])
        answer, received = self._receive()
        return NurseryChild(self, answer["pid"], received[0], stderr)

    def reap(self, pid: int) -> int:
        self._socket.send(pickle.dumps({"op": "reap", "pid": pid}))
        return int(self._receive()[0]["returncode"])

    def close(self) -> None:
        self._socket.close()
        self._popen.wait()

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        data, fds, _flags, _address = socket.recv_fds(self._socket, _MESSAGE_BYTES, 4)
        if not data:
            raise RuntimeError(f"the nursery has ended: {self._popen.wait()}")
        return pickle.loads(data), fds
