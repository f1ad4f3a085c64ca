"""In the plugin: dying at a message that the test has chosen. `_faults` has the test's side.

A FIFO for each place holds a byte for each message to come: "." is let pass, "k" kills. Reading a
byte is atomic, so all processes of a plugin, and all its lives, count together; a message without
a byte is free.

What counts as a message: calls, notifications, answers, errors, items and ends of streams, in
either direction. What does not: the handshake, pings, cancels, credit.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from shmhub import HubPeerTransport
from shmhub._rpc import PeerEngine
from shmhub._rpc import _wire as wire

__all__ = ["KILL", "PASS", "PLACES", "VARIABLE", "install"]

VARIABLE = "SHMHUB_TESTING"  # tells the plugin's process what to load and where the FIFOs are
PASS, KILL = b".", b"k"
PLACES = ("received", "sending", "sent")
COUNTED = frozenset({wire.CALL, wire.NOTIFY, wire.RESULT, wire.ERROR, wire.ITEM, wire.END})


def install(fifos: Mapping[str, str]) -> None:
    """Have this process look at its FIFOs whenever a message has come or goes.

    Args:
        fifos: a path for each of PLACES.
    """
    try:
        fds = {place: os.open(path, os.O_RDONLY | os.O_NONBLOCK) for place, path in fifos.items()}
    except FileNotFoundError:
        return  # `Faults` is closed: this process was started again later, and shall live
    collect, collect_all = HubPeerTransport.collect, HubPeerTransport.collect_all
    post = HubPeerTransport.post
    # Messages that had no room, are tried again and have been counted: is it the last one?
    retried: dict[tuple[int, int], bool] = {}

    def is_last(place: str) -> bool:
        try:
            return os.read(fds[place], 1) == KILL
        except BlockingIOError:
            return False

    def received(item: Any) -> None:
        if getattr(item, "channel", None) in COUNTED and is_last("received"):
            die()

    def collect_one(
        self: HubPeerTransport, inbox: list[Any], channel: int, message_id: Any, timeout: Any, /
    ) -> Any:
        known = len(inbox)
        frame = collect(self, inbox, channel, message_id, timeout)
        for item in (*inbox[known:], frame):
            received(item)
        return frame

    def collect_single(
        self: HubPeerTransport, inbox: list[Any], _max: int, timeout: Any, /
    ) -> None:
        # One at a time, however many there are: those behind the last one stay in the ring.
        known = len(inbox)
        collect_all(self, inbox, 1, timeout)
        for item in inbox[known:]:
            received(item)

    def post_one(
        self: HubPeerTransport,
        payload: Any,
        to: Any,
        channel: int,
        method: int,
        flags: int,
        message_id: int,
        deadline: Any,
        timeout: Any,
        /,
    ) -> None:
        if channel not in COUNTED:
            post(self, payload, to, channel, method, flags, message_id, deadline, timeout)
            return
        message = channel, message_id
        last = retried.pop(message, None)
        if last is None:
            if is_last("sending"):
                die()
            # Before it is sent: who has its answer may ask for the next one to be the last.
            last = is_last("sent")
        try:
            post(self, payload, to, channel, method, flags, message_id, deadline, timeout)
        except BaseException:
            retried[message] = last
            raise
        if last:
            die()

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def no_short_way(self: PeerEngine, tasks: Any) -> None:
        """Calls that the core would execute itself pass here like all the others."""

    engine: Any = PeerEngine
    engine._callee = no_short_way
    patched: Any = HubPeerTransport
    patched.collect, patched.collect_all, patched.post = collect_one, collect_single, post_one
