"""Forks children for ``nursery.py``. Single-threaded, holds no hub, reaps on demand."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import pickle
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.support.processes import die_with_parent

# Imported once here, so that no child pays for it.
_PRELOADED = ("shmhub", "tests.support.agent", "tests.support.patterns")
_MESSAGE_BYTES = 1 << 16
_MOST_FDS = 16


def _run(request: dict[str, Any], fds: list[int]) -> NoReturn:
    """The life of a child; ends the process the way a program ends, finalisation included."""
    die_with_parent()
    os.dup2(fds[0], 2)
    os.close(fds[0])
    faulthandler.enable(sys.__stderr__)
    faulthandler.register(signal.SIGUSR1, file=sys.__stderr__, all_threads=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    module, _, function = request["target"].partition(":")
    arguments = request["arguments"]
    if request["fds"]:
        arguments["fds"] = dict(zip(request["fds"], fds[1:], strict=True))
    sys.exit(getattr(importlib.import_module(module), function)(**arguments))


def _spawn(control: socket.socket, request: dict[str, Any], fds: list[int]) -> None:
    pid = os.fork()
    if pid == 0:
        control.close()
        _run(request, fds)
    for fd in fds:
        os.close(fd)
    pidfd = os.pidfd_open(pid)
    socket.send_fds(control, [pickle.dumps({"pid": pid})], [pidfd])
    os.close(pidfd)


def _reap(control: socket.socket, pid: int) -> None:
    _pid, status = os.waitpid(pid, 0)
    control.send(pickle.dumps({"returncode": os.waitstatus_to_exitcode(status)}))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for the test runner
    die_with_parent()
    for name in (*_PRELOADED, *sys.argv[2:]):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        while True:
            data, fds, _flags, _address = socket.recv_fds(control, _MESSAGE_BYTES, _MOST_FDS)
            if not data:
                return
            request = pickle.loads(data)
            if request["op"] == "spawn":
                _spawn(control, request, list(fds))
            else:
                _reap(control, request["pid"])


if __name__ == "__main__":
    main()
