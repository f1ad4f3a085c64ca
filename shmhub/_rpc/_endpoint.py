"""What a host's engine and a plugin's have in common: sorting what comes in.

One transport, one `Reading`, any number of links. Knows nothing of processes.
"""

from __future__ import annotations

import itertools
import logging
from typing import Any

from shmhub._errors import CodecError, PeerGoneError
from shmhub._rpc import _wire as wire
from shmhub._rpc._call import Call
from shmhub._rpc._codec import get_codec
from shmhub._rpc._failure import plain_failure
from shmhub._rpc._link import Link
from shmhub._rpc._parts import Key
from shmhub._rpc._payload import Message, decode, encode, private
from shmhub._rpc._pool import Loop, Workers
from shmhub._rpc._reading import Reading, Waiter
from shmhub._rpc._server import Server
from shmhub._rpc._stream import Stream, end_of

__all__ = ["Endpoint"]

logger = logging.getLogger("shmhub")

SIDE_THREADS = 64
MOST_QUEUED = 1000  # calls of one peer that wait for a thread here
MOST_PRIVATE = 256 << 20  # bytes of their arguments in private memory
TOO_MANY = plain_failure(
    wire.BUSY, f"{MOST_QUEUED} calls, or {MOST_PRIVATE >> 20} MiB of arguments, wait here already"
)
NO_PARTS = plain_failure(
    wire.ENCODE, "parts of its answer were lost on their way, or it is longer than parts may be"
)
FLOW_SHIFT = wire.TREE_SHIFT
CALLS = (wire.CALL & 0xFF, wire.NOTIFY & 0xFF)
UNASKED = (*CALLS, wire.HELLO & 0xFF, wire.WELCOME & 0xFF)
ANSWERS = (wire.RESULT & 0xFF, wire.ERROR & 0xFF)
ITEMS = (wire.ITEM & 0xFF, wire.END & 0xFF)
IN_PARTS = frozenset({wire.HELLO, wire.WELCOME, *range(wire.CALL, wire.PART)})


class Endpoint:
    """One side of RPC in one process; see `Engine` and `PeerEngine`."""

    bounds_queues = False  # does it refuse calls of one who sends too many?

    def __init__(self, transport: Any, server: Server, *, name: str) -> None:
        self.transport = transport
        self.server = server
        self.next_id = itertools.count(1).__next__
        self.reading = Reading(transport, self.dispatch, self._ended, name=name)
        # Threads that wait in a call here, by the tree of calls that they are in: what is called
        # here within that tree runs on them.
        self.nested: dict[int, list[Waiter]] = {}
        self.side = Workers(SIDE_THREADS, name="shmhub-side")  # generators among arguments
        self.loop = Loop(name="shmhub-loop")
        self._handlers = {
            wire.RESULT: self._on_answer,
            wire.ERROR: self._on_answer,
            wire.CALL: self._on_call,
            wire.NOTIFY: self._on_call,
            wire.CANCEL: self._on_cancel,
            wire.PING: self._on_ping,
            wire.PONG: self._on_answer,
            wire.ITEM: self._on_item,
            wire.END: self._on_end,
            wire.CREDIT: self._on_credit,
        }

    # ---- for the engines -----------------------------------------------------------------------

    def link_of(self, frame: Any) -> Link | None:
        """Whose message it is."""
        raise NotImplementedError

    def accept(self, link: Link, frame: Any) -> None:
        """A call of theirs is in `link.queued`: see that it is executed."""
        raise NotImplementedError

    def gone(self, error: PeerGoneError) -> None:
        """A peer of several is gone."""
        raise NotImplementedError

    def _ended(self, error: BaseException) -> None:
        """Nothing will come any more."""
        raise NotImplementedError

    def wait_for(self, waiter: Waiter, deadline: float | None) -> None:
        """Read until it is done, or the deadline."""
        if not isinstance(waiter, Call):
            self.reading.wait(waiter, deadline)
            return
        while (frame := self.reading.wait(waiter, deadline, wire.RESULT)) is not None:
            if frame.peer_id != waiter.link.peer_id:
                self.dispatch(frame)  # another peer has guessed the id
                continue
            if frame.flags & wire.PARTS:
                frame = self._join(waiter.link, frame)
            if frame is not None:
                self._answered(waiter.link, frame)
                return

    def close_threads(self, timeout: float | None) -> None:
        """End what was started to run generators and coroutines."""
        self.side.close(timeout)
        self.loop.close(timeout)

    # ---- what has come -------------------------------------------------------------------------

    def dispatch(self, item: Any) -> None:
        """One message or death; short, may be repeated with the same (see `_reading`)."""
        if isinstance(item, PeerGoneError):
            self.gone(item)
            return
        link = self.link_of(item)
        if link is None:
            return  # of a peer that nobody here has asked for
        if item.channel == wire.PART:
            self._on_part(link, item)
            return
        if item.flags & wire.PARTS and item.channel in IN_PARTS:
            whole = self._join(link, item)
            if whole is None:
                return
            item = whole
        handler = self._handlers.get(item.channel)
        if handler is None:
            logger.error("%s sent a message of an unknown kind, %#x", link.name, item.channel)
            return
        try:
            handler(link, item)
        except CodecError as error:
            logger.error("a message of %s: %s", link.name, error)

    def _on_answer(self, link: Link, frame: Any) -> None:
        self._answered(link, frame)

    def _answered(self, link: Link, frame: Any) -> None:
        call = link.calls.get(frame.message_id)
        if call is None:
            return  # answered already
        if frame.channel == wire.PONG:
            frame = _as_result(frame)
        call.answer(frame)
        link.forget(frame.message_id, again=call.started is False)

    def _on_call(self, link: Link, frame: Any) -> None:
        call_id = frame.message_id
        if call_id in link.running or (type(frame) is not Message and frame.released):
            return  # dealt with before
        if self.bounds_queues and not self._has_place(link, frame):
            link.refuse(frame, TOO_MANY)
            frame.release()
            return
        if frame.crowded:
            frame = private(frame)
        link.queued[call_id] = frame
        self.accept(link, frame)

    def _has_place(self, link: Link, frame: Any) -> bool:
        """May one more call of theirs wait here? What a peer floods with must end somewhere."""
        if len(link.queued) >= MOST_QUEUED:
            return False
        if not frame.crowded:
            return True
        waiting = list(link.queued.values())
        held = sum(len(one.data) for one in waiting if type(one) is Message)
        return held + len(frame) <= MOST_PRIVATE or not waiting

    def _on_cancel(self, link: Link, frame: Any) -> None:
        call_id = frame.message_id ^ wire.ABOUT
        for kind in CALLS:
            link.parts.drop((call_id, kind, 0))
        queued = link.queued.pop(call_id, None)
        if queued is not None:
            unstarted = frame.flags & wire.UNSTARTED
            reason = wire.WITHDRAWN if unstarted else wire.CANCELLED
            link.refuse(queued, plain_failure(reason))
            queued.release()
            return
        running = link.running.get(call_id)
        if running is not None and not frame.flags & wire.UNSTARTED:
            running.cancel()
            flow = link.outflows.get((call_id, 0))
            if flow is not None:
                flow.credit(wire.STOP)

    def _on_item(self, link: Link, frame: Any) -> None:
        stream = _stream_of(link, frame)
        if stream is not None:
            stream.put(frame)

    def _on_end(self, link: Link, frame: Any) -> None:
        if frame.flags >> FLOW_SHIFT == 0:
            self._answered(link, frame)
            return
        stream = _stream_of(link, frame)
        if stream is not None:
            stream.end(end_of(link, frame, stream.what), frame.method)

    def _on_credit(self, link: Link, frame: Any) -> None:
        key = (frame.message_id & ~wire.ABOUT, frame.flags >> FLOW_SHIFT)
        if frame.method == wire.OPEN:
            link.open_upload(*key)
            return
        flow = link.outflows.get(key)
        if flow is not None:
            flow.credit(frame.method)

    def _on_ping(self, link: Link, frame: Any) -> None:
        link.tell(wire.PONG, frame.message_id)

    def _on_part(self, link: Link, frame: Any) -> None:
        if type(frame) is Message or frame.released:
            return
        kind, call_id, flow = frame.method, frame.message_id, frame.flags >> FLOW_SHIFT
        unasked = kind in UNASKED
        if unasked:
            call_id, flow = call_id ^ (wire.ABOUT if kind in CALLS else 0), 0
        elif kind in ANSWERS:
            flow = 0
        first = frame.flags & wire.FIRST != 0
        if not unasked:
            if first:
                link.parts.keep_asked(lambda key: _is_wanted(link, key))
            if not _is_wanted(link, (call_id, kind, flow)):
                return
        if not link.parts.add((call_id, kind, flow), frame, first=first, asked=not unasked):
            logger.debug("%s: a message in parts was not taken", link.name)
        frame.release()

    def _join(self, link: Link, frame: Any) -> Message | None:
        if frame.released:
            return None
        parts = link.parts.take(_parts_key(frame))
        if parts is None:
            if frame.message_id in link.calls:  # or its caller would wait for ever
                return _as_failure(frame)
            link.refuse(frame, TOO_MANY)
            return None
        parts += frame
        message = Message(frame, bytes(parts))
        frame.release()
        return message


def _parts_key(frame: Any) -> Key:
    kind = frame.channel & 0xFF
    whole = kind in UNASKED or kind in ANSWERS
    return (frame.message_id, kind, 0 if whole else frame.flags >> FLOW_SHIFT)


def _is_wanted(link: Link, key: Key) -> bool:
    """Does anybody wait for such an answer, item or end?"""
    call_id, kind, flow = key
    if kind in ANSWERS:
        return call_id in link.calls
    if kind not in ITEMS:
        return False
    # Of a stream that nobody reads any more the end is waited for all the same.
    is_end = kind == wire.END & 0xFF and flow == 0 and call_id in link.calls
    return is_end or (call_id & ~wire.ABOUT, flow) in link.inflows


def _stream_of(link: Link, frame: Any) -> Stream | None:
    """The stream that an item or an end belongs to, if anybody still has it."""
    found = link.inflows.get((frame.message_id & ~wire.ABOUT, frame.flags >> FLOW_SHIFT))
    return None if found is None else found()


def _as_failure(frame: Any) -> Message:
    """Of an answer in parts, when those are not here."""
    message = Message(frame, encode(NO_PARTS, get_codec("plain")).joined())
    message.channel, message.flags = wire.ERROR, 0
    frame.release()
    return message


def _as_result(frame: Any) -> Message:
    message = Message(frame, bytes(frame))
    message.channel = wire.RESULT
    return message


def decode_plain(link: Link, frame: Any) -> dict[str, Any]:
    """A handshake's dict.

    Raises:
        CodecError: it is none.
    """
    value = decode(frame, link.plain)
    if type(value) is not dict:
        raise CodecError(f"a handshake is a dict, not a {type(value).__name__}")
    return value
