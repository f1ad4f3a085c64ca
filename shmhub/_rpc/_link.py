"""One conversation: one life of one peer (host side), or the host (plugin side).

Knows how calls become messages; `_posting` sends them, and what comes in is sorted by the endpoint.
Safe from several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from difflib import get_close_matches
from time import monotonic
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any
from weakref import ref

from shmhub._errors import (
    HubClosedError,
    HubTimeoutError,
    PluginMissingMethod,
    WouldBlockError,
)
from shmhub._native import core
from shmhub._rpc import _wire as wire
from shmhub._rpc._call import Call
from shmhub._rpc._codec import Codec
from shmhub._rpc._current import current
from shmhub._rpc._failure import CallLost
from shmhub._rpc._parts import Parts
from shmhub._rpc._payload import INLINE_MAX, Encoded, encode
from shmhub._rpc._posting import LOST, Posting
from shmhub._rpc._reading import Waiter
from shmhub._rpc._stream import Outflow, Stream, upload, upload_async
from shmhub._rpc._uploads import carries_stream, take_uploads

if TYPE_CHECKING:
    from shmhub._rpc._endpoint import Endpoint

__all__ = ["Link"]


class Link(Posting):
    """One conversation. Made by an engine.

    Attributes:
        peer_id: of the other side; 0: the host.
        name: of the other side, for people.
        hello: what the other side said of itself; None: nothing yet.
        closed: it is over: no call can begin.
    """

    def __init__(self, endpoint: Endpoint, peer_id: int, name: str, *, life: int, codec: Codec):
        super().__init__(endpoint.transport, peer_id, name, life)
        self.endpoint = endpoint
        self.hello: dict[str, Any] | None = None
        self._closed = False
        self._gone: BaseException | None = None  # why it was lost
        self._undelivered: frozenset[int] = frozenset()  # messages it never received, then
        self._cancelled: BaseException | None = None  # what all calls were cancelled with
        self.epoch: int | None = None
        self.codec = codec
        self.settling = threading.Lock()
        self.welcoming = threading.Lock()  # the last WELCOME that is sent is the newest
        self.calls: dict[int, Call] = {}  # sent and not answered
        self.queued: dict[int, Any] = {}  # of theirs: received, not started
        self.running: dict[int, Any] = {}  # of theirs: CurrentCall
        self.parts = Parts(bounded=endpoint.bounds_queues)
        self.inflows: dict[tuple[int, int], ref[Stream]] = {}  # by call and place: read here
        self.outflows: dict[tuple[int, int], Outflow] = {}  # being produced here
        self.uploads: dict[int, list[Any]] = {}  # by call: generators that wait to be read
        self._numbers: dict[str, int] = {}
        self._kinds: dict[str, str] = {}
        self._callable: dict[str, int] = {}  # the numbers of those that give one value
        self._caller: Any = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open" if self.hello is not None else "new"
        return f"<Link to {self.name!r}, {state}, {len(self.calls)} calls>"

    @property
    def closed(self) -> bool:
        return self._closed

    def shut(self) -> None:
        """Let no more calls begin."""
        self._closed = True
        if self._caller is not None:
            self._caller.close()

    @property
    def unpickles(self) -> bool:
        """Is the other side trusted that far?"""
        return self.codec.name == "pickle"

    @property
    def in_flight(self) -> int:
        """Calls that the other side has not answered, cancelled ones included."""
        return len(self.calls)

    def set_methods(self, methods: Any) -> None:
        """What the other side offers, from its hello: dicts with name and kind."""
        self._numbers = {one["name"]: number for number, one in enumerate(methods)}
        self._kinds = {one["name"]: one.get("kind", "call") for one in methods}
        self._callable.clear()
        self._callable.update(
            (name, number) for name, number in self._numbers.items() if self._kinds[name] == "call"
        )

    # ---- calling -------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        *,
        deadline: float | None = None,
        view: bool = False,
    ) -> Any:
        """Call and wait in this thread.

        Raises:
            as `begin` and `Call.result`; HubTimeoutError (.outcome) when the deadline passes.
        """
        call = self.begin(method, args, kwargs, deadline=deadline, view=view, attended=True)
        try:
            self.wait_for(call, deadline)
            if not call.done:
                self._give_up(call)
        except BaseException:
            call.cancel()
            raise
        try:
            return call.result()
        finally:
            del call  # see Call.result

    def open_caller(
        self, on_answered: Callable[[Call], None], on_adopted: Callable[[], None]
    ) -> Any:
        """The short way for calls that fit into one message each way; None: there is none.

        Args:
            on_answered: see `Call`, for those that turn out to be longer.
            on_adopted: called before that where a `_core.Gate` let the call in, which counts it
                no more.

        Returns:
            a `_core.Caller`. Its `call` takes the method's name, the tuple of arguments and the
            deadline, and gives the result; NotImplemented: nothing was sent, use `begin`; or the
            Call that is to be waited for.
        """
        if not self.codec.takes_plain:
            return None

        def adopt(
            call_id: int, method: str, frame: Any, error: BaseException | None, counted: bool
        ) -> Call:
            if not counted:
                on_adopted()
            return self._adopt(Call(self, call_id, method, on_answered=on_answered), frame, error)

        reading = self.endpoint.reading
        self._caller = core.Caller(
            self.transport,
            reading.turn,
            reading.inbox,
            self.endpoint.next_id,
            adopt,
            self._callable,
            self.life,
            self.peer_id,
        )
        if self._closed:
            self._caller.close()
        return self._caller

    def _adopt(self, call: Call, frame: Any, error: BaseException | None) -> Call:
        """A call that was sent the short way, and what its caller has met; with the turn."""
        self.calls[call.message_id] = call
        if self._gone is not None:  # before it was among the calls that `lose` knows
            self._lose_call(call)
        if self._cancelled is not None:  # the same with `cancel_all`
            call.cancel(copy(self._cancelled))
        if error is not None:
            try:
                if error.__traceback__ is not None:
                    raise error  # a signal handler's
                self.endpoint.reading.failed(error)
            except BaseException as signalled:
                call.cancel(signalled)  # which `Call.result` raises
        if frame is not None:
            self.endpoint.dispatch(frame)
        return call

    def _give_up(self, call: Call) -> None:
        outcome = "not_started" if call.started is False else "may_have_run"
        call.cancel(
            HubTimeoutError(
                f"{call.what}: no answer before its deadline; it may have run, and may still run: "
                "allow more time, or look at what it waits for",
                outcome=outcome,
            )
        )

    def begin(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        *,
        deadline: float | None = None,
        view: bool = False,
        on_done: Callable[[Call], None] | None = None,
        on_answered: Callable[[Call], None] | None = None,
        wait: bool = True,
        attended: bool = False,
    ) -> Call:
        """Send a call.

        Args:
            deadline: `time.monotonic()` seconds: how long to wait for room, and what the other
                side is told.
            view: bytes in the place of the result come as a memoryview.
            on_done, on_answered: see `Call`.
            wait: False: WouldBlockError instead of waiting for room or a slot.
            attended: this thread waits for it at once; else the lookout reads.

        Raises:
            CodecError: the arguments cannot be encoded.
            PluginMissingMethod: the other side has no such method.
            PayloadTooLargeError: no slot can ever hold the arguments.
            HubTimeoutError: no room or slot until the deadline: outcome "not_started".
            CallLost: the link is over: outcome "not_started".
        """
        number = self._number(method)
        if deadline is not None and monotonic() >= deadline:
            raise HubTimeoutError(
                f"{self.name}.{method}: its deadline has passed", outcome="not_started"
            )
        encoded, uploads = self.encode(args, kwargs)
        call_id = self.endpoint.next_id() | self.life
        if uploads:
            self.uploads[call_id] = uploads
        call = Call(self, call_id, method, view=view, on_done=on_done, on_answered=on_answered)
        self._send(wire.CALL, call, call_id, number, encoded, deadline, wait, attended)
        return call

    def begin_quietly(
        self,
        method: str,
        args: tuple[Any, ...],
        *,
        deadline: float | None = None,
        view: bool = False,
        on_answered: Callable[[Call], None] | None = None,
    ) -> Call | None:
        """As `begin`, if it is one short message that goes at once, but whoever sleeps there is not
        woken: `wake` must follow. None: not this way, and nothing was sent. Never raises.
        """
        number = self._callable.get(method)
        if number is None or not self.codec.takes_plain:
            return None
        if deadline is not None and monotonic() >= deadline:
            return None
        try:
            data = core.plain_encode(args, None, INLINE_MAX, False)
        except (ValueError, RuntimeError, BufferError):
            return None
        if data is None:
            return None
        call_id = self.endpoint.next_id() | self.life
        call = Call(self, call_id, method, view=view, on_answered=on_answered)
        call.sending = True
        self.calls[call_id] = call
        if self.closed:
            self.forget(call_id)
            return None
        reading = self.endpoint.reading
        reading.unattended.add(call_id)
        flags = (call_id & wire.TREE_MASK) << wire.TREE_SHIFT
        try:
            sent = self.transport.post_quietly(
                data, self.peer_id, wire.CALL, number, flags, call_id, deadline
            )
        except LOST:
            sent = False
        if not sent:
            self.forget(call_id)
            return None
        self._sent(call)
        reading.attend()
        return call

    def wake(self) -> None:
        """The other side is to look at what was begun quietly."""
        with suppress(*LOST):
            self.transport.wake(self.peer_id)

    def open_stream(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        *,
        deadline: float | None = None,
        view: bool = False,
        on_end: Callable[[], None] | None = None,
        on_lost: Callable[[CallLost], BaseException] | None = None,
        wait: bool = True,
    ) -> Stream:
        """Call a generator method: its items, as they come.

        Args:
            deadline: of the whole stream.
            on_end: called once, by whoever reads, when the other side is done with it or gone.
            on_lost: what to raise where the link is lost; called in the thread that iterates.

        Raises:
            as `begin`.
        """
        number = self._number(method, "stream")
        encoded, uploads = self.encode(args, kwargs)
        encoded.flags |= wire.STREAM
        call_id = self.endpoint.next_id() | self.life
        stream = Stream(self, call_id, 0, f"{self.name}.{method}", deadline=deadline)
        stream.view = view
        stream.on_lost = on_lost
        dropped = ref(stream)
        call = Call(
            self,
            call_id,
            method,
            on_done=lambda call: _end_stream(dropped(), call),
            on_answered=None if on_end is None else lambda call: on_end(),
        )
        stream.call = call
        self.inflows[call_id, 0] = dropped
        if uploads:
            self.uploads[call_id] = uploads
        try:
            self._send(wire.CALL, call, call_id, number, encoded, deadline, wait, False)
        except BaseException:
            self.inflows.pop((call_id, 0), None)
            stream.closed = True
            raise
        return stream

    def notify(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        *,
        deadline: float | None = None,
    ) -> None:
        """A call that nobody answers; raises as `begin`."""
        number = self._number(method)
        encoded, uploads = self.encode(args, kwargs)
        if uploads:
            raise TypeError(f"{self.name}.{method}: a notification cannot carry a stream")
        call_id = self.endpoint.next_id() | self.life
        self._send(wire.NOTIFY, None, call_id, number, encoded, deadline, True, True)

    def ping(self, deadline: float | None) -> float:
        """Seconds until the other side's reader has answered.

        Raises:
            HubTimeoutError, CallLost
        """
        began = monotonic()
        call_id = self.endpoint.next_id() | self.life
        call = Call(self, call_id, "(ping)")
        self._send(wire.PING, call, call_id, 0, Encoded(b"N", [], 0), deadline, True, True)
        if not call.wait(deadline):
            self.calls.pop(call_id, None)
            raise HubTimeoutError(f"{self.name}: no answer to a ping", outcome="may_have_run")
        call.result()
        return monotonic() - began

    def encode(
        self, args: tuple[Any, ...], kwargs: dict[str, Any] | None
    ) -> tuple[Encoded, list[Any] | None]:
        """Arguments, ready to be sent, and the generators among them."""
        uploads = None
        flags = 0
        if carries_stream(args, kwargs):
            args, kwargs, uploads = take_uploads(args, kwargs or {})
            flags = wire.UPLOADS
        if kwargs:
            return encode((*args, kwargs), self.codec, flags | wire.KWARGS), uploads
        return encode(args, self.codec, flags), uploads

    def open_upload(self, call_id: int, index: int) -> None:
        """The callee reads a generator that was among the arguments: let it run."""
        uploads = self.uploads.get(call_id)
        if uploads is None or not 1 <= index <= len(uploads) or uploads[index - 1] is None:
            return
        call = self.calls.get(call_id)
        if call is None:
            return
        call.consumed = True
        items, uploads[index - 1] = uploads[index - 1], None
        flow = Outflow(self, call_id, index)
        if isinstance(items, AsyncGeneratorType):
            self.endpoint.loop.submit(upload_async, flow, items)
        else:
            self.endpoint.side.submit(upload, flow, items)

    def _number(self, method: str, kind: str = "call") -> int:
        number = self._numbers.get(method)
        if number is not None and self._kinds[method] != kind:
            use = "open_stream()" if kind == "call" else "call()"
            raise TypeError(f"{self.name}.{method} is a {self._kinds[method]}: use {use}")
        if number is None:
            if self.closed:
                raise self.lost(f"{self.name}.{method}")
            close = get_close_matches(method, self._numbers, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise PluginMissingMethod(f"{self.name} has no method {method!r}{hint}", name=method)
        return number

    def lost(self, what: str, gone: BaseException | None = None) -> CallLost:
        """The error of a call that could not be sent."""
        return CallLost(
            f"{what}: {self.name} is gone, the call was not sent",
            outcome="not_started",
            gone=gone or self.endpoint.reading.ended,
        )

    def _send(
        self,
        kind: int,
        call: Call | None,
        call_id: int,
        number: int,
        encoded: Encoded,
        deadline: float | None,
        wait: bool,
        attended: bool,
    ) -> None:
        """CALL, NOTIFY or PING; `call` is known to the reader before it can be answered."""
        within = current.get()
        flags = encoded.flags
        tree = within.tree if within is not None else call_id & wire.TREE_MASK
        flags |= tree << wire.TREE_SHIFT
        if call is not None:
            call.sending = True
            self.calls[call_id] = call
        try:
            if self.closed:
                raise self.lost(call.what if call is not None else self.name, self._gone)
            if not attended:
                self.endpoint.reading.unattended.add(call_id)
            self.put(kind, encoded, number, flags, call_id, deadline, wait)
        except BaseException as error:
            if call is not None:
                self.forget(call_id, again=isinstance(error, (*LOST, CallLost, WouldBlockError)))
            if isinstance(error, LOST):
                raise self.lost(f"{self.name}: calling", error) from error
            if isinstance(error, HubTimeoutError):
                raise HubTimeoutError(
                    f"{self.name}: no room for a call until its deadline: it does not receive, or "
                    "too many calls are under way",
                    outcome="not_started",
                ) from error
            raise
        if call is not None:
            self._sent(call)
        if not attended:
            self.endpoint.reading.attend()

    def _sent(self, call: Call) -> None:
        """Its message is on its way. Either this or `lose` sees what the other has written."""
        call.sending = False
        if self._gone is not None:
            self._lose_call(call)

    def forget(self, call_id: int, *, again: bool = False) -> Call | None:
        """That call is answered, or was never sent.

        Args:
            again: it may be sent again: generators that were not read stay as they are.
        """
        self.endpoint.reading.unattended.discard(call_id)
        if self.uploads:
            self._end_uploads(call_id, again)
        return self.calls.pop(call_id, None)

    def _end_uploads(self, call_id: int, again: bool) -> None:
        """Nobody reads them any more."""
        for index, items in enumerate(self.uploads.pop(call_id, ()), 1):
            flow = self.outflows.get((call_id, index))
            if flow is not None:
                flow.credit(wire.STOP)
            elif not (again or items is None or isinstance(items, AsyncGeneratorType)):
                self.endpoint.side.submit(items.close)  # the application's code

    def cancel_all(self, error: BaseException) -> None:
        """Cancel the calls that are under way, also those of the short way; no other may come."""
        self._cancelled = error
        for call in list(self.calls.values()):
            call.cancel(copy(error))  # a traceback belongs to one raise
        self.endpoint.reading.look_again()

    def wait_for(self, waiter: Waiter, deadline: float | None) -> None:
        """Read until it is done, or the deadline; run what is called here in its course."""
        self.endpoint.wait_for(waiter, deadline)

    def bye(self) -> None:
        """Ask a plugin to finish what runs and to leave; it starts no more calls."""
        self.tell(wire.BYE, 0)

    # ---- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """No more calls; those under way are lost."""
        self.lose(HubClosedError(f"the link to {self.name} was closed"), frozenset())

    def lose(self, gone: BaseException, undelivered: frozenset[int]) -> None:
        """It is over. Calls whose message was never received have not started."""
        self._undelivered = undelivered
        self._gone = gone
        self.shut()
        for call in list(self.calls.values()):
            if not call.sending:  # or its message may never go out: see `_sent`
                self._lose_call(call)
        for one in list(self.running.values()):
            one.cancel()
        for flow in list(self.outflows.values()):
            flow.credit(wire.STOP)
        for (call_id, _), found in list(self.inflows.items()):
            stream = found()
            if stream is None or call_id in self.calls:  # it ends with its call
                continue
            stream.end(CallLost(f"{stream.what}: {self.name} is gone ({gone})", gone=gone))
        self.queued.clear()
        self.parts.clear()

    def _lose_call(self, call: Call) -> None:
        call_id, gone = call.message_id, self._gone
        if self.forget(call_id, again=True) is None:
            return
        never = call_id in self._undelivered or call.started is False
        call.lose(
            CallLost(
                f"{call.what}: {self.name} is gone ({gone}); the call "
                + ("was never received there" if never else "may have run"),
                outcome="not_started" if never else "may_have_run",
                gone=gone,
            )
        )


def _end_stream(stream: Stream | None, call: Call) -> None:
    """The call of a stream is done: so is the stream, if anybody still has it."""
    if stream is None:
        return
    if call.unpickles:
        stream.end(call.result)
        return
    try:
        count = call.result()
    except BaseException as error:
        stream.end(error)
    else:
        stream.end(None, count)
