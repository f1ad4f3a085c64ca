"""One process of a plugin: started in a process group of its own, signalled, reaped with all of it.

The loop's thread uses it. Knows nothing of calls.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmhub._peer_info import PeerInfo
    from shmhub.plugin._output import Output

__all__ = ["Process"]


class Process:
    """A started process.

    A group of its own: Ctrl-C in the terminal is the host's alone, and what the plugin itself
    started ends with it.

    Attributes:
        pidfd: readable when it has ended; open until `reap`.
    """

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.pid = popen.pid
        self.pidfd = os.pidfd_open(popen.pid)
        self._popen = popen

    @classmethod
    def start(
        cls,
        info: PeerInfo,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        output: Output,
    ) -> Process:
        """Start `command` with the hub's arguments appended.

        Raises:
            OSError: no such program or folder, or the system refuses.
        """
        popen = info.popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output.stdout_fd,
            stderr=output.stderr_fd,
            env=env,
            cwd=cwd,
            process_group=0,
        )
        try:
            return cls(popen)
        except BaseException:
            popen.kill()
            popen.wait()
            raise

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """End the process and everything in its group."""
        self.signal(signal.SIGKILL)
        self._kill_group()

    def reap(self) -> int:
        """Collect the exit status of a process that has ended, and end what is left of its group.

        Returns:
            as `Popen.returncode`: negative: the signal.
        """
        # Before its status is collected: until then its pid, the group's number, is not reused.
        self._kill_group()
        returncode = self._popen.wait()
        os.close(self.pidfd)
        return returncode

    def _kill_group(self) -> None:
        # PermissionError: what is left of it runs as somebody else, by its own choice.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
