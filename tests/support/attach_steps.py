"""What a peer does step by step while it attaches, for agents that are killed in between.

Run in a forked child: ``nursery.spawn("tests.support.attach_steps:run", ...)``.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
from typing import Any

import shmhub
from tests.support import leaks

STEPS = ("start", "open", "register", "doorbell", "connect", "send", "close_transport", "close")


def run(*, fds: dict[str, int], peer_id: int, die_after: str, error: str | None = None) -> int:
    """Goes through the steps and dies by SIGKILL after one of them."""
    if error is not None:
        refuse_pidfd_open(error)
    for step in _attach(fds, peer_id):
        os.write(fds["report"], step.encode() + b"\n")
        if step == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
    return 0


def _attach(fds: dict[str, int], peer_id: int) -> Any:
    yield "start"
    peer = shmhub.HubPeer.open(f"/proc/self/fd/{fds['hub']}", peer_id)
    yield "open"
    peer.register()
    yield "register"
    doorbell = shmhub.Doorbell.from_raw_fd(fds["doorbell"])
    yield "doorbell"
    transport = shmhub.HubPeerTransport(peer, doorbell, "stepping")
    yield "connect"
    transport.send(b"x" * 1000)
    yield "send"
    transport.close()
    yield "close_transport"
    peer.close()
    yield "close"


def create_refused(*, fds: dict[str, int], path: str | None, error: str) -> int:
    """Tries to be a host where pidfd_open is refused; 0 when nothing is left of the attempt."""
    refuse_pidfd_open(error)
    before = leaks.Snapshot.take()
    try:
        shmhub.HubHost.create(path)
    except (shmhub.ShmhubError, OSError) as failure:
        os.write(fds["report"], str(failure).encode())
    left = before.what_is_left(leaks.Snapshot.take())
    print("\n".join(left), file=sys.stderr)
    return len(left)


# seccomp: a filter that answers pidfd_open with an error, as an old kernel or a sandbox does.
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_SECCOMP_RET_ALLOW = 0x7FFF0000
_SECCOMP_RET_ERRNO = 0x00050000
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NR_PIDFD_OPEN = 434  # the same number on every architecture


def refuse_pidfd_open(error: str) -> None:
    """From now on pidfd_open fails with the errno of that name in this process."""
    import errno

    number = getattr(errno, error)
    program = b"".join(
        struct.pack("<HBBI", *line)
        for line in (
            (_LOAD_WORD, 0, 0, 0),
            (_JUMP_EQUAL, 0, 1, _NR_PIDFD_OPEN),
            (_RETURN, 0, 0, _SECCOMP_RET_ERRNO | number),
            (_RETURN, 0, 0, _SECCOMP_RET_ALLOW),
        )
    )
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")
