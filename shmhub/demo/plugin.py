"""What the demo's three plugins share: attach, take a job, say so, do it, answer.

A plugin is a program like any other: started with the hub's command line, single-threaded, gone
when its host is. It lets go of each job before it answers, so an idle plugin holds no slots.
"""

from __future__ import annotations

import os
import signal
import sys

from shmhub import (
    Frame,
    HostGoneError,
    HubPeerTransport,
    PayloadTooLargeError,
    ShmhubError,
    Slot,
)
from shmhub.demo import jobs
from shmhub.demo.jobs import Kind, Method, Status

__all__ = ["serve"]


def serve(kind: Kind) -> int:
    """Work for the host that started this program until it closes; the program's exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the host alone
    try:
        transport = HubPeerTransport.from_argv(name=kind.label)
    except (ShmhubError, OSError) as error:
        print(f"{kind.label} plugin: {error}", file=sys.stderr)
        return 2
    try:
        with transport:
            transport.send(str(os.getpid()).encode(), channel=kind, method=Method.HELLO)
            for frame in transport:
                _answer(transport, frame)
    except HostGoneError as error:
        # The host may have closed in good order while an answer was under way.
        return 0 if error.clean else 3
    return 0


def _answer(transport: HubPeerTransport, frame: Frame) -> None:
    with frame:
        labels = frame.reply_to()
        transport.send(flags=jobs.flags_for(Status.STARTED), **labels)
        status, result = _work(transport, frame)
    # Here the job's slot is free again: what is alive from here on is only the answer.
    slot = _in_slot(transport, result)
    if isinstance(slot, Slot):
        transport.send(slot, flags=jobs.flags_for(status, slot.size_class), **labels)
    else:
        transport.send(slot, flags=jobs.flags_for(status), **labels)


def _work(transport: HubPeerTransport, frame: Frame) -> tuple[Status, Slot | bytes]:
    try:
        return Status.DONE, jobs.do(frame.method, frame.payload, transport.alloc)
    except (jobs.Refused, PayloadTooLargeError) as error:
        return Status.REFUSED, str(error).encode()


def _in_slot(transport: HubPeerTransport, result: Slot | bytes) -> Slot | bytes:
    """Put a result into a slot, unless it is there already or so small that it needs none."""
    if isinstance(result, Slot) or len(result) <= jobs.INLINE_MAX:
        return result
    slot = transport.alloc(len(result))
    slot.write(result)
    return slot
