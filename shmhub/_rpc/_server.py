"""Executing what the other side calls; on either side.

Knows how a function becomes an answer, not which thread it runs in: that is the endpoint's.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import ref

from shmhub._errors import (
    CodecError,
    HostGoneError,
    HubClosedError,
    PeerGoneError,
    WouldBlockError,
)
from shmhub._rpc import _wire as wire
from shmhub._rpc._current import CurrentCall, current
from shmhub._rpc._failure import UNTOLD, describe, plain_failure
from shmhub._rpc._method import Method
from shmhub._rpc._payload import Encoded, decode, encode
from shmhub._rpc._stream import (
    COPY_ON_LOOP,
    Outflow,
    Stream,
    StreamClosed,
    produce,
    produce_async,
)

if TYPE_CHECKING:
    from shmhub._rpc._link import Link

__all__ = ["Server"]

logger = logging.getLogger("shmhub")

LOST = (PeerGoneError, HostGoneError, HubClosedError)
OWN_FRAMES = 1  # of a traceback: `_run`
MOST_UPLOADS = 255
STOPPED = plain_failure(wire.CANCELLED, type_name="StreamClosed")


class Server:
    """The methods of one side, and how a call of one of them goes.

    Args:
        methods: by name. Add more with `add`.
        threads: how many may run at once.
        name: of this side, for messages.
    """

    def __init__(
        self, methods: Mapping[str, Method] | None = None, *, threads: int = 1, name: str = ""
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads={threads}: at least 1")
        self.methods: dict[str, Method] = {}
        self.table: list[Method] = []
        self.threads = threads
        self.name = name
        self.stopping = False
        self.busy = 0  # calls running now
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        for method in (methods or {}).values():
            self.add(method)

    def add(self, method: Method) -> None:
        """Offer one more.

        Raises:
            ValueError: there is one of that name.
        """
        with self._lock:
            if method.name in self.methods:
                raise ValueError(f"{self.name}: there is a method {method.name!r} already")
            self.methods[method.name] = method
            self.table.append(method)

    def described(self) -> list[dict[str, Any]]:
        """For the handshake; the place in the list is the method's number."""
        return [method.described() for method in self.table]

    def stop(self, timeout: float | None) -> bool:
        """Start no more calls and wait for those that run: whether all have ended."""
        with self._idle:
            self.stopping = True
            return self._idle.wait_for(lambda: self.busy == 0, timeout)

    # ---- one call ------------------------------------------------------------------------------

    def method_of(self, frame: Any) -> Method | None:
        """What it calls; None: there is no such number."""
        return self.table[frame.method] if frame.method < len(self.table) else None

    def execute(self, link: Link, frame: Any) -> None:
        """Run the call in this thread and answer it; never raises but for Ctrl-C.

        A call that was cancelled before, or whose deadline has passed, is not run.
        """
        method = self.method_of(frame)
        call = self._admit(link, frame, method)
        if call is None:
            return
        assert method is not None
        token = current.set(call)
        try:
            if method.kind == "stream":
                self._stream(link, call, method, frame)
            else:
                self._run(link, call, method, frame)
        except BaseException as error:
            self._escaped(link, call, error)
        finally:
            current.reset(token)
            self._leave(link, call)
            frame.release()  # with the last view of it

    async def execute_async(self, link: Link, frame: Any) -> None:
        """The same on an event loop."""
        import asyncio  # most plugins never need it

        method = self.method_of(frame)
        call = self._admit(link, frame, method)
        if call is None:
            return
        assert method is not None
        call.run_in(asyncio.current_task())
        current.set(call)  # the task's own context
        try:
            if method.kind == "stream":
                await self._stream_async(link, call, method, frame)
            else:
                await self._run_async(link, call, method, frame)
        except asyncio.CancelledError:
            # While a thread was to answer for it, which that thread may not have begun.
            if not call.answered:
                link.refuse_id(call.id, STOPPED)
            raise
        except BaseException as error:
            self._escaped(link, call, error)
        finally:
            self._leave(link, call)
            frame.release()

    def refuse(self, link: Link, frame: Any, reason: str, text: str = "") -> None:
        """Answer without having started."""
        link.queued.pop(frame.message_id, None)
        link.refuse(frame, plain_failure(reason, text))

    def _admit(self, link: Link, frame: Any, method: Method | None) -> CurrentCall | None:
        """The call that begins now, or None: it was answered."""
        call_id = frame.message_id
        deadline = frame.deadline
        if link.queued.pop(call_id, None) is not frame:
            return None  # cancelled before it began, and answered
        if method is None:
            self.refuse(link, frame, wire.MISSING, f"there is no method number {frame.method}")
            return None
        if deadline is not None and monotonic() >= deadline:
            self.refuse(link, frame, wire.DEADLINE)
            return None
        call = CurrentCall(link, method.name, call_id, deadline, frame.flags >> wire.TREE_SHIFT)
        call.answered = frame.channel == wire.NOTIFY  # nobody waits for an answer
        with self._lock:
            if self.stopping:
                admitted = False
            else:
                admitted = True
                self.busy += 1
                link.running[call_id] = call
        if not admitted:
            self.refuse(link, frame, wire.STOPPING, f"{self.name or 'the other side'} is stopping")
            return None
        return call

    def _leave(self, link: Link, call: CurrentCall) -> None:
        link.running.pop(call.id, None)
        with self._idle:
            self.busy -= 1
            if self.busy == 0:
                self._idle.notify_all()

    def _arguments(
        self, link: Link, frame: Any, method: Method
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """None: they cannot be decoded, which was answered. What shows no slot keeps none."""
        try:
            if frame.flags & wire.UPLOADS:
                return self._with_uploads(link, frame, method)
            return _split(decode(frame, link.codec, method.views), frame.flags)
        except BaseException as error:  # decoding may run the application's code
            notification = frame.channel == wire.NOTIFY
            self._fail(link, frame.message_id, error, _reason(error, wire.DECODE), notification)
            return None
        finally:
            if not frame.shown:
                frame.release()

    def _with_uploads(
        self, link: Link, frame: Any, method: Method
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Streams take their places among the arguments; they begin to flow."""
        views = {one + 1 if isinstance(one, int) else one for one in method.views}
        args, kwargs = _split(decode(frame, link.codec, views), frame.flags)
        if not args or type(args[0]) is not tuple or len(args[0]) > MOST_UPLOADS:
            raise CodecError("the places of streams among the arguments are a tuple")
        places, positional = args[0], list(args[1:])
        for index, place in enumerate(places, 1):
            stream = Stream(link, frame.message_id, index, f"{method.name}({place})")
            if type(place) is int and place < len(positional):
                positional[place] = stream
            elif type(place) is str and place in kwargs:
                kwargs[place] = stream
            else:
                raise CodecError(f"a stream is for the argument {place!r}, which is not there")
            link.inflows[frame.message_id, index] = ref(stream)
            link.tell_flow(wire.CREDIT, frame.message_id, index, number=wire.OPEN)
        return tuple(positional), kwargs

    def _run(self, link: Link, call: CurrentCall, method: Method, frame: Any) -> None:
        arguments = self._arguments(link, frame, method)
        if arguments is None:
            return
        args, kwargs = arguments
        del arguments
        try:
            value = method.function(*args, **kwargs)
        except BaseException as error:
            self._raised(link, call, method, error, args, kwargs)
            return
        # The result may lie in the argument's slot, and if not, that is free before the result
        # asks for one: nothing here may refer to either any more.
        del args, kwargs
        encoded = self._encoded(link, call, value)
        del value
        if encoded is not None:
            self._answer(link, call, encoded, frame)

    async def _run_async(self, link: Link, call: CurrentCall, method: Method, frame: Any) -> None:
        import asyncio

        arguments = self._arguments(link, frame, method)
        if arguments is None:
            return
        args, kwargs = arguments
        del arguments
        try:
            value = await method.function(*args, **kwargs)
        except asyncio.CancelledError as error:
            if call.cancelled:
                self._fail(link, call.id, error, wire.CANCELLED, call.answered)
            else:
                self._raised(link, call, method, error, args, kwargs)
            return
        except BaseException as error:
            self._raised(link, call, method, error, args, kwargs)
            return
        del args, kwargs
        encoded = self._encoded(link, call, value)
        del value
        if encoded is not None and not self._answer(link, call, encoded, frame, wait=False):
            # It has to wait for room or a slot, which must not stop the other tasks.
            await asyncio.to_thread(self._answer, link, call, encoded, frame)

    def _stream(self, link: Link, call: CurrentCall, method: Method, frame: Any) -> None:
        arguments = self._arguments(link, frame, method)
        frame.release()
        if arguments is None:
            return
        args, kwargs = arguments
        flow = Outflow(link, call.id, 0)
        try:
            items = method.function(*args, **kwargs)
            produce(flow, items, lambda: call.cancelled, call.deadline)
        except StreamClosed:
            link.refuse_id(call.id, STOPPED)
        except BaseException as error:
            self._raised(link, call, method, error, args, kwargs)
        else:
            link.tell(wire.END, call.id, number=flow.sequence)  # it has ended well
        finally:
            flow.close()

    async def _stream_async(
        self, link: Link, call: CurrentCall, method: Method, frame: Any
    ) -> None:
        arguments = self._arguments(link, frame, method)
        frame.release()
        if arguments is None:
            return
        args, kwargs = arguments
        flow = Outflow(link, call.id, 0)
        try:
            items = method.function(*args, **kwargs)
            await produce_async(flow, items, lambda: call.cancelled, call.deadline)
        except StreamClosed:
            link.refuse_id(call.id, STOPPED)
        except BaseException as error:
            if call.cancelled:
                link.refuse_id(call.id, STOPPED)
            else:
                self._raised(link, call, method, error, args, kwargs)
        else:
            link.tell(wire.END, call.id, number=flow.sequence)  # it has ended well
        finally:
            flow.close()

    # ---- calls that were run the short way (_core.Callee) --------------------------------------

    def answer(self, link: Link, call: CurrentCall, value: Any) -> None:
        """What the method gave, when it is more than one small message; raises as `execute`."""
        try:
            encoded = self._encoded(link, call, value)
            if encoded is not None:
                self._answer(link, call, encoded, None)
        except BaseException as error:
            self._escaped(link, call, error)

    def answer_raised(
        self,
        link: Link,
        call: CurrentCall,
        method: Method,
        error: BaseException,
        args: tuple[Any, ...],
    ) -> None:
        """What it raised; no frame of ours is in its traceback. Raises as `execute`."""
        try:
            self._raised(link, call, method, error, args, {}, frames=0)
        except BaseException as escaped:
            self._escaped(link, call, escaped)

    # ---- answers -------------------------------------------------------------------------------

    def _encoded(self, link: Link, call: CurrentCall, value: Any) -> Encoded | None:
        """None: it is answered, or cannot be."""
        if call.answered:
            return None
        if call.cancelled:
            # Nobody wants it: no slot for it.
            link.refuse_id(call.id, STOPPED)
            return None
        try:
            return encode(value, link.codec)
        except BaseException as error:  # CodecError, what codecs raise, and the application
            self._fail(link, call.id, error, _reason(error, wire.ENCODE), False)
            return None

    def _answer(
        self, link: Link, call: CurrentCall, encoded: Encoded, frame: Any, *, wait: bool = True
    ) -> bool:
        """Send the result, in the slot that the arguments came in if it lies there.

        Args:
            frame: of the arguments; None: they came inline.

        Returns:
            False: not now, when `wait` is False.
        """
        if not wait and encoded.size > COPY_ON_LOOP and len(encoded.buffers) > 1:
            return False  # some of them may have to be copied
        if frame is not None:
            encoded.settle_in(frame)
            frame.release()  # before the result asks for a slot
        if not wait and encoded.slot is None and encoded.size > COPY_ON_LOOP:
            return False
        try:
            link.send(wire.RESULT, call.id, encoded, wait=wait)
        except LOST:
            pass
        except WouldBlockError:
            return False
        except Exception as error:  # PayloadTooLargeError
            self._fail(link, call.id, error, wire.ENCODE, False)
        return True

    def _raised(
        self,
        link: Link,
        call: CurrentCall,
        method: Method,
        error: BaseException,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        frames: int = OWN_FRAMES,
    ) -> None:
        reason = None
        trace = error.__traceback__
        if frames:
            trace = None if trace is None else trace.tb_next
        if type(error) is TypeError and trace is None:
            error = _with_signature(error, method, args, kwargs)
            reason = wire.ARGUMENTS
        if call.answered:
            logger.error("notification %s failed", method.name, exc_info=error)
            return
        self._fail(link, call.id, error, reason, False, frames=frames)

    def _fail(
        self,
        link: Link,
        call_id: int,
        error: BaseException,
        reason: str | None,
        notification: bool,
        *,
        frames: int = 0,
    ) -> None:
        if notification:
            logger.error("a notification failed: %s", error)
            return
        link.refuse_id(call_id, describe(error, reason, frames=frames, pickled=link.unpickles))

    def _escaped(self, link: Link, call: CurrentCall, error: BaseException) -> None:
        """Something could not even be answered, and its caller would wait for ever.

        An answer too many does no harm: nobody waits for it. Ctrl-C, which comes to the main
        thread, still ends a plugin that is run by hand.
        """
        try:
            logger.error("%s: answering it failed", call.method, exc_info=error)
            told = describe(error)
        except BaseException:
            told = UNTOLD
        if not call.answered:
            link.refuse_id(call.id, told)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and type(error) is KeyboardInterrupt:
            raise error


def _reason(error: BaseException, coding: str) -> str | None:
    """Why coding failed. An exit or interrupt in its course is one, as if the method had raised it;
    the application's code may have run by then."""
    return coding if isinstance(error, Exception) else None


def _split(value: Any, flags: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by position and by name."""
    if type(value) is not tuple:
        raise CodecError(f"arguments are a tuple, not a {type(value).__name__}")
    if not flags & wire.KWARGS:
        return value, {}
    if not value or type(value[-1]) is not dict:
        raise CodecError("arguments by name are a dict at the end")
    return value[:-1], value[-1]


def _with_signature(
    error: TypeError, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> TypeError:
    """A call that does not fit the signature was raised by the call itself: show what fits."""
    try:
        inspect.signature(method.function).bind(*args, **kwargs)
    except TypeError as mismatch:
        told = TypeError(f"{mismatch}; it is {method.name}{method.signature}")
        return told.with_traceback(error.__traceback__)
    except ValueError:
        pass
    return error
