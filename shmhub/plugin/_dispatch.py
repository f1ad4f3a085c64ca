"""Which call goes to which replica; `_losses` decides about the calls of one that died.

A group is all replicas of one plugin. A caller that finds a replica idle goes straight to it, with
no queue and no Future between. Everything else is a `CallFuture`: sent by whoever submits it while
a replica has room, else queued here and sent by a thread of the group's. A replica has room for as
many calls as it has threads, and for so many more as it will be done with within a moment
(see `_channel`): short calls flow without a pause, long ones wait here, where any replica that
gets free can take them. Knows nothing of processes: `_supervise` brings and takes channels.

One lock guards all of it. It is never held while something is sent, waited for, or called back.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from shmhub._errors import (
    HubClosedError,
    HubForkedError,
    HubTimeoutError,
    QueueFullError,
    WouldBlockError,
)
from shmhub._native import core
from shmhub._rpc import Call, CallLost, CurrentCall
from shmhub._rpc._current import current
from shmhub.plugin._channel import Channel
from shmhub.plugin._clockwork import Expiry, TakeBack
from shmhub.plugin._future import CallFuture, OpenStream
from shmhub.plugin._kin import Kin
from shmhub.plugin._losses import Losses
from shmhub.plugin._sender import Sender

if TYPE_CHECKING:
    from shmhub.plugin._loop import Loop
    from shmhub.plugin._quiet import Quiet
    from shmhub.plugin._workers import Workers

__all__ = ["Group"]

logger = logging.getLogger("shmhub.plugin")


class Group:
    """All replicas of one plugin. Safe from several threads.

    Args:
        max_pending: calls that may wait here; more raise QueueFullError. None: any number.
        max_attempts: how often a call may run at most, when replicas die of it.
    """

    def __init__(
        self,
        name: str,
        *,
        loop: Loop,
        workers: Workers,
        max_pending: int | None,
        max_attempts: int,
        keep_times: bool,
        waiting: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self.name = name
        self.loop = loop
        self.workers = workers
        self.max_pending = max_pending
        self.max_attempts = max_attempts
        self.keep_times = keep_times
        self.waiting = waiting
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.channels: list[Channel] = []  # those that take calls
        self.pending: deque[CallFuture] = deque()
        self.refusal: BaseException | None = None  # why no more calls are taken
        self._turns = itertools.count()  # of notifications
        self._drainers = 0  # threads that wait until nothing is under way
        self.parting: set[Channel] = set()  # take no more calls, have some yet
        self._sender = Sender(f"shmhub calls of {name}", self._send_next)
        self._expiry = Expiry(self)
        self.losses = Losses(self)
        self._take_back = TakeBack(self)
        self._kin = Kin(self.channels)
        self.gate = core.Gate(self.pending, current, self._finish, self._settled)

    # Calls

    def call(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
        view: bool,
        retry: bool | None,
    ) -> Any:
        """Call and wait: straight to an idle replica, or in turn with the others."""
        deadline = None if timeout is None else time.monotonic() + timeout
        within = current.get()
        if within is not None:
            return self._from_callback(within, method, args, kwargs, deadline, view, retry)
        with self.lock:
            channel = None if self.pending else self._idlest(prefetch=False)
            if channel is not None:
                channel.in_flight += 1
        return self._on(channel, method, args, kwargs, deadline, view, retry)

    def _from_callback(
        self,
        within: CurrentCall,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deadline: float | None,
        view: bool,
        retry: bool | None,
    ) -> Any:
        """A call in the course of another one; see `Kin`."""
        with self.lock:
            channel = self._kin.of(within)
            if channel is None and not self.pending:
                channel = self._idlest(prefetch=False)
            if channel is not None:
                channel.in_flight += 1
                self._kin.enter(within.tree, channel)
        try:
            return self._on(channel, method, args, kwargs, deadline, view, retry)
        finally:
            if channel is not None:
                with self.lock:
                    self._kin.leave(within.tree)

    def _on(
        self,
        channel: Channel | None,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deadline: float | None,
        view: bool,
        retry: bool | None,
    ) -> Any:
        """Call on a channel that has a place for it; None: in turn with the others."""
        if channel is None:
            future = self.make(method, args, kwargs, deadline, view, retry)
            self.submit(future)
            return self.wait(future)
        try:
            return self._directly(channel, method, args, kwargs, deadline, view)
        except CallLost as lost:
            future = self.make(method, args, kwargs, deadline, view, retry)
            self.losses.mourn(channel, future, lost)
        return self.wait(future)

    def _directly(
        self,
        channel: Channel,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deadline: float | None,
        view: bool,
    ) -> Any:
        link = channel.link
        call: Any = NotImplemented
        try:
            caller = channel.caller
            simple = not (kwargs or view or self.keep_times)
            # In the course of another call it would have to say whose part it is.
            if caller is not None and simple and current.get() is None:
                call = caller.call(method, args, deadline)
            if call is NotImplemented:
                call = link.begin(
                    method,
                    args,
                    kwargs,
                    deadline=deadline,
                    view=view,
                    on_answered=channel.freed,
                    attended=True,
                )
        except BaseException:
            self._free(channel, None)
            raise
        if type(call) is not Call:  # its result already
            self._free(channel, None)
            return call
        return self._attend(channel, call, method, deadline)

    def _attend(self, channel: Channel, call: Call, method: str, deadline: float | None) -> Any:
        """Wait for a call that was sent."""
        if self.keep_times:
            with self.lock:
                if not call.answered:
                    channel.direct[call] = time.monotonic()
        try:
            channel.link.wait_for(call, deadline)
            if not call.done:
                call.cancel(
                    HubTimeoutError(
                        f"{method}() of plugin {self.name!r}: no answer before its deadline; it "
                        "may have run, and may still run",
                        outcome="may_have_run",
                    )
                )
        except BaseException:
            call.cancel()
            raise
        return call.result()

    # Past the queue: see _core.Gate

    def _finish(
        self,
        channel: Channel,
        call: Call,
        method: str,
        args: tuple[Any, ...],
        deadline: float | None,
    ) -> Any:
        """The rest of a call that the gate let in, and that is not one message each way."""
        try:
            return self._attend(channel, call, method, deadline)
        except CallLost as lost:
            future = self.make(method, args, {}, deadline, False, None)
            self.losses.mourn(channel, future, lost)
        return self.wait(future)

    def _take(self, channel: Channel) -> None:
        """A call that the gate let in is a `Call` from now on, and counted like any other."""
        with self.lock:
            channel.in_flight += 1

    def load(self, channel: Channel) -> int:
        """Calls that are there or on their way."""
        return channel.in_flight + (channel is self.gate.busy)

    def _settled(self, channel: Channel) -> None:
        """A call that the gate let in has ended, and somebody waits for that."""
        with self.lock:
            self._has_room(channel)

    def _set_gate(self) -> None:
        """After the channels, or whether calls are taken, have changed. Called with the lock."""
        alone = self.channels[0] if len(self.channels) == 1 else None
        closed = self.refusal is not None or self.keep_times
        if alone is None or alone.caller is None or alone.held_up or closed:
            self.gate.close()
        else:
            self.gate.open(alone.caller, alone)

    def _free(self, channel: Channel, call: Call | None) -> None:
        """A call without a Future was answered, or could not be sent."""
        with self.lock:
            channel.in_flight -= 1
            if channel.direct and call is not None:
                channel.direct.pop(call, None)
            if self.pending or self.parting or self._drainers or len(self.channels) > 1:
                self._has_room(channel)

    def make(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deadline: float | None,
        view: bool,
        retry: bool | None,
    ) -> CallFuture:
        """A call that has not been submitted yet."""
        future = CallFuture(self, method, args, kwargs)
        if deadline is not None:
            future.deadline = deadline
        if view:
            future.view = True
        if retry is not None:
            future.retry = retry
        return future

    def submit(self, future: CallFuture) -> None:
        """Send the call, or queue it; never waits.

        Raises:
            QueueFullError: `max_pending` calls wait already.
            HubClosedError, PluginDiedError, ...: no more calls are taken.
        """
        within = current.get()
        with self.lock:
            if self.refusal is not None:
                raise self.why_not()
            channel = self._kin.of(within) if within is not None else None
            busy = self.gate.busy
            if channel is None and not self.pending:
                channel = self._idlest(prefetch=future.kind == "call", busy=busy)
            if channel is None:
                if self.max_pending is not None and len(self.pending) >= self.max_pending:
                    raise QueueFullError(
                        f"{future.method}() of plugin {self.name!r}: {len(self.pending)} calls are "
                        f"waiting already, and max_pending is {self.max_pending}; wait for some of "
                        "them, or give it more replicas"
                    )
                self.pending.append(future)
                self._sender.start()
                if busy is not None and self.gate.busy is None:
                    self._sender.wake()  # its call may have ended without seeing this one
            else:
                self._assign(channel, future)
        self.watch(future)
        if channel is not None:
            self._send(channel, future)

    def submit_to(self, channel: Channel, future: CallFuture) -> None:
        """Send it to this replica and no other, however busy."""
        future.pinned = True
        with self.lock:
            self._assign(channel, future)
        self.watch(future)
        self._send(channel, future)

    def notify(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None
    ) -> None:
        """Send a call that has no answer: to the least busy replicas, in turn."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            channels = self.wait_channels(left)
            # Nobody says when a notification has run, so none counts as being under way.
            least = min(one.in_flight for one in channels)
            idlest = [one for one in channels if one.in_flight == least]
            channel = idlest[next(self._turns) % len(idlest)]
            try:
                channel.link.notify(method, args, kwargs, deadline=deadline)
                return
            except CallLost:
                self.drop(channel)  # it has just died: the next one

    def wait_channels(self, timeout: float | None) -> list[Channel]:
        """The replicas that take calls; waits until there is one.

        Raises:
            HubTimeoutError: there is none within `timeout` seconds.
            HubClosedError, PluginDiedError, ...: no more calls are taken.
        """
        with self.changed:
            ready = self.changed.wait_for(lambda: self.channels or self.refusal, timeout)
            if self.refusal is not None:
                raise self.why_not()
            if not ready:
                raise HubTimeoutError(
                    f"plugin {self.name!r}: no replica became ready within {timeout} s",
                    outcome="not_started",
                )
            return list(self.channels)

    def given_up(self, future: CallFuture) -> None:
        """The future is over without its answer: nobody waits for that any more."""
        with self.lock:
            channel, call = future.channel, future.call
            if channel is None:
                # Not found: whoever has it just now sees that it is over.
                with contextlib.suppress(ValueError):
                    self.pending.remove(future)
                self.changed.notify_all()
        if call is not None:
            call.cancel()  # its place is free when it is answered

    def wait(self, future: CallFuture) -> Any:
        """Its result; an interrupted wait (Ctrl-C) cancels it."""
        try:
            if self.channels and self.channels[0].link.endpoint.reading.turn.mine:
                raise RuntimeError(
                    f"{future.method}() of plugin {self.name!r} was called from a signal handler "
                    "which interrupted another call in this thread: let the handler set a flag"
                )
            return future.result()
        except BaseException:
            if not future.over:  # Ctrl-C: the caller goes, so must the call
                future.cancel()
            raise
        finally:
            del future  # or its exception's traceback would keep itself alive

    # Sending

    def _idlest(self, *, prefetch: bool, busy: Channel | None = None) -> Channel | None:
        best, least = None, 0
        if busy is None:
            busy = self.gate.busy
        for channel in self.channels:
            if channel.held_up:
                continue
            load = channel.in_flight - channel.threads
            if channel is busy:
                load += 1
            if best is not None and load >= least:
                continue
            if load < 0 or (prefetch and load < channel.room() - channel.threads):
                best, least = channel, load
        return best

    def _assign(self, channel: Channel, future: CallFuture) -> None:
        channel.in_flight += 1
        channel.calls[future] = None
        future.channel = channel
        future.sent_at = 0.0

    def _send(self, channel: Channel, future: CallFuture) -> None:
        """Send a call that has a place on this channel; its outcome, an error too, is its own.

        A replica that does not read, or slots that are all taken, hold up neither who submits nor
        the calls of other replicas: what would have to wait for room is sent by the channel's own
        thread. Until it is, the channel gets nothing but what is for no other one, and in order.
        """
        if not future.begin():
            self._leave(channel, future)
            return
        if channel.held_up or not self._send_begun(channel, future, wait=False):
            self._hold_up(channel, 1)
            context = contextvars.copy_context()  # says whose callback this call is a part of
            try:
                channel.patient.post(context.run, self._send_patiently, channel, future)
            except RuntimeError as error:  # no thread can be started
                self._hold_up(channel, -1)
                self._leave(channel, future)
                future.settle(error=error)

    def _send_patiently(self, channel: Channel, future: CallFuture) -> None:
        try:
            self._send_begun(channel, future, wait=True)
        finally:
            self._hold_up(channel, -1)

    def _hold_up(self, channel: Channel, change: int) -> None:
        with self.lock:
            channel.held_up += change
            self._set_gate()
            if self.pending and not channel.held_up:
                self._sender.wake()

    def _send_quietly(self, channel: Channel, future: CallFuture) -> bool:
        """As `_send` for one short message, but the replica is not woken; False: not this way."""
        arguments = future.arguments
        if arguments is None or arguments[1] or future.kind == "stream" or channel.held_up:
            return False
        if not future.begin():
            return False
        self._note_sending(channel, future)
        call = channel.link.begin_quietly(
            future.method,
            arguments[0],
            deadline=future.deadline,
            view=future.view,
            on_answered=functools.partial(self._answered, channel, future),
        )
        if call is None:
            return False
        self._has_begun(channel, future, call)
        return True

    def _note_sending(self, channel: Channel, future: CallFuture) -> None:
        future.sent_at = time.monotonic()
        if channel.in_flight == 1:
            channel.last_moment = future.sent_at

    def _has_begun(self, channel: Channel, future: CallFuture, call: Call) -> None:
        with self.lock:
            if future.channel is channel:
                future.call = call
        if future.over:  # given up before there was something to cancel
            call.cancel()

    def _send_begun(self, channel: Channel, future: CallFuture, *, wait: bool) -> bool:
        """Returns False when it would have to wait for room, and must not."""
        arguments = future.arguments
        if arguments is None:  # cancelled
            self._leave(channel, future)
            return True
        self._note_sending(channel, future)
        try:
            if future.kind == "stream":
                self._open(channel, future, arguments, wait=wait)
                return True
            args, kwargs = arguments
            call = channel.link.begin(
                future.method,
                args,
                kwargs,
                deadline=future.deadline,
                view=future.view,
                on_answered=functools.partial(self._answered, channel, future),
                wait=wait,
            )
        except CallLost as lost:
            self._leave(channel, future)
            self.losses.mourn(channel, future, lost)
        except BaseException as error:
            if not wait and isinstance(error, WouldBlockError):
                return False
            self._leave(channel, future)
            future.settle(error=error)
            if not isinstance(error, Exception):
                raise
        else:
            self._has_begun(channel, future, call)
        return True

    def _open(
        self, channel: Channel, future: CallFuture, arguments: Any, *, wait: bool = True
    ) -> None:
        """A stream keeps its place until it ends; the future is done with when it is open."""
        place = OpenStream()
        method = future.method
        with self.lock:
            self._put_in_place(channel, future, place)
        try:
            stream = channel.link.open_stream(
                method,
                *arguments,
                deadline=future.deadline,
                view=future.view,
                on_end=lambda: self._leave(channel, place),
                on_lost=lambda lost: self.losses.of_stream(channel, method, lost),
                wait=wait,
            )
        except BaseException:
            with self.lock:
                self._put_in_place(channel, place, future)
            raise
        place.call = stream.call
        if not future.settle(stream):
            stream.close()

    def _put_in_place(
        self, channel: Channel, one: CallFuture | OpenStream, other: CallFuture | OpenStream
    ) -> None:
        if one.channel is channel:
            one.channel = None
            del channel.calls[one]
            channel.calls[other] = None
            other.channel = channel

    def _answered(self, channel: Channel, future: CallFuture, call: Call) -> None:
        """The answer is there, or will not come. Runs where answers are read: short."""
        with self.lock:
            channel.measure(time.monotonic())
            self._forget(channel, future)
            self._has_room(channel)
        if future.over:
            return  # nobody waits for it: it is dropped
        if call.unpickles:
            future.settle(call=call)
            return
        try:
            value = call.result()
        except CallLost as lost:
            self.losses.mourn(channel, future, lost)
        except BaseException as error:
            future.settle(error=error)
        else:
            future.settle(value)

    def _leave(self, channel: Channel, future: CallFuture | OpenStream) -> None:
        with self.lock:
            self._forget(channel, future)
            self._has_room(channel)

    def _forget(self, channel: Channel, future: CallFuture | OpenStream) -> None:
        if future.channel is channel:
            future.channel = future.call = None
            channel.calls.pop(future, None)
            channel.in_flight -= 1

    def _has_room(self, channel: Channel) -> None:
        """Something on this channel ended. Called with the lock."""
        if self.pending:
            if channel.wants_more:
                self._sender.wake()
            return
        if channel.in_flight == 0:
            self.parting.discard(channel)
            if self._drainers:
                self.changed.notify_all()
        if channel.in_flight < channel.threads and len(self.channels) > 1:
            self._take_back.consider(channel)

    def _send_next(self, quiet: Quiet) -> bool:
        """The next of those that wait, if a replica has room for it."""
        with self.lock:
            if self._sender.ended:
                return False
            if not self.pending:
                return False
            # A stream is not sent ahead: once open it cannot be taken back.
            channel = self._idlest(prefetch=self.pending[0].kind == "call")
            if channel is None:
                return False
            future = self.pending.popleft()
            self._assign(channel, future)
        if self._send_quietly(channel, future):
            quiet.sent(channel.link)
        else:
            quiet.end()  # what follows may take long
            self._send(channel, future)
        return True

    # Replicas that come and go

    def add(self, channel: Channel) -> None:
        """A replica is ready."""
        channel.freed = lambda call: self._free(channel, call)
        channel.taken = lambda: self._take(channel)
        with self.lock:
            self.channels.append(channel)
            self._set_gate()
            self._sender.wake()
            self.changed.notify_all()

    def drop(self, channel: Channel) -> None:
        """It takes no more calls; those that it has may end yet."""
        with self.lock:
            if channel in self.channels:
                self.channels.remove(channel)
                self._set_gate()
                if channel.in_flight:
                    self.parting.add(channel)
            self.changed.notify_all()

    def again(self, future: CallFuture) -> None:
        """It was lost, and is to be sent once more: before those that wait."""
        with self.lock:
            refusal = self.refusal
            if refusal is None and not future.over:
                future.asked_back = False
                self.pending.appendleft(future)
                self._sender.start()
                self._sender.wake()
        if refusal is not None:
            future.settle(error=self.why_not())
        else:
            self.watch(future)

    def watch(self, future: CallFuture) -> None:
        """See that its deadline is kept."""
        if future.deadline is not None:
            self._expiry.at(future.deadline)

    # The end

    def refuse(self, error: BaseException, *, pending: bool = True) -> None:
        """Take no more calls; `pending`: those that wait here get the error."""
        with self.lock:
            if self.refusal is None:
                self.refusal = error
            self._set_gate()
            dropped = list(self.pending) if pending else []
            if pending:
                self.pending.clear()
            self.changed.notify_all()
        for future in dropped:
            future.settle(error=self.why_not())

    def accept(self) -> None:
        """Take calls again."""
        with self.lock:
            self.refusal = None
            self._set_gate()

    def wait_drained(self, deadline: float | None) -> bool:
        """Wait until no call is waiting or under way; False: the time is over."""
        with self.changed:
            self._drainers += 1
            self.gate.watchers += 1
            try:
                return self.changed.wait_for(
                    self._drained,
                    None if deadline is None else max(0.0, deadline - time.monotonic()),
                )
            finally:
                self._drainers -= 1
                self.gate.watchers -= 1

    def _drained(self) -> bool:
        return not (
            self.pending or self.gate.busy is not None or any(one.in_flight for one in self._all())
        )

    def cancel_all(self) -> None:
        """Cancel every call and stream. No other one may come."""
        with self.lock:
            futures = self.living_calls()
            channels = self._all()
        for future in futures:
            future.cancel()
        error = HubClosedError(f"plugin {self.name!r} was stopped before it had answered")
        for channel in channels:
            channel.link.cancel_all(error)

    def end(self) -> None:
        """Let the thread go. Nothing may be pending any more."""
        with self.lock:
            self._sender.end()
        self._sender.join(timeout=5)

    def forked(self) -> None:
        """This is a forked child: no thread of ours is here, and the lock may be held for ever."""
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.refusal = HubForkedError(
            f"plugin {self.name!r} belongs to the process that this one was forked from; make a "
            "PluginHost here"
        )
        for future in self.living_calls():
            if isinstance(future, CallFuture):
                future.forked(self.why_not())
        self.channels.clear()
        self.parting.clear()
        self.gate.close()
        self.pending = deque()

    def living_calls(self) -> list[CallFuture | OpenStream]:
        """All streams, and calls that have a Future, and are not answered. Called with the lock."""
        found: list[CallFuture | OpenStream] = [*self.pending, *self.losses.undecided]
        for channel in self._all():
            found += channel.calls
        return found

    def _all(self) -> list[Channel]:
        return [*self.channels, *self.parting]

    def why_not(self) -> BaseException:
        """A new instance each time: a traceback belongs to one raise."""
        assert self.refusal is not None
        from copy import copy

        return copy(self.refusal)
