"""What a generator method yields, for asyncio: `AsyncStream`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from shmhub._errors import HubClosedError, WouldBlockError
from shmhub._rpc._payload import Message

if TYPE_CHECKING:
    from shmhub._rpc import Stream
    from shmhub.plugin._aio import PluginHost
    from shmhub.plugin._future import CallFuture

__all__ = ["LARGE", "AsyncStream"]

LARGE = 1 << 20
"""Bytes of arguments, or of an item, from which on they are copied off the loop."""


class AsyncStream:
    """What a generator method yields: `async for`, and `async with` to end it early.

    An iterator that is left before its end is to be closed: `aclose()`, or `async with`. One that
    is dropped cancels the generator, too. Each item goes to one of the tasks that iterate.
    """

    def __init__(
        self,
        future: CallFuture,
        opening: Callable[[], Coroutine[Any, Any, Stream]],
        host: PluginHost,
    ) -> None:
        self._future = future
        self._opening: Callable[[], Coroutine[Any, Any, Stream]] | None = opening
        self._host = host
        self._stream: Stream | None = None
        self._taking: asyncio.Future[Any] | None = None
        self._turn = asyncio.Lock()  # of the task that opens it, or waits for an item
        self._news = asyncio.Event()
        self._closed = False

    async def _opened(self) -> Stream | None:
        """With the turn; None: it is closed."""
        if self._stream is None and not self._closed:
            await self._open()
        return None if self._closed else self._stream

    async def _open(self) -> None:
        opening, self._opening = self._opening, None
        if opening is None:
            raise HubClosedError(f"{self._what}: its opening was cancelled, or has failed")
        try:
            stream = await opening()
        except asyncio.CancelledError:
            self._give_up()
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                return  # by `aclose`, which is not the end of this task
            raise
        loop, news = self._host._enter(), self._news

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(news.set)

        stream.on_ready = tell
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        async with self._turn:
            stream = await self._opened()
            if stream is None:
                raise StopAsyncIteration
            return await self._next(stream)

    async def _next(self, stream: Stream) -> Any:
        while True:
            deadline = stream.deadline
            left = None if deadline is None else deadline - time.monotonic()
            self._news.clear()
            try:
                if self._taking is not None or _begins_large(stream):
                    return await self._take_in_thread(stream)
                return stream.take_nowait()
            except WouldBlockError:
                if left is not None and left <= 0:
                    error = stream._no_more_time()
                    stream.close()
                    raise error from None
            except StopIteration:
                self._closed = True
                raise StopAsyncIteration from None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._news.wait()

    async def _take_in_thread(self, stream: Stream) -> Any:
        """Decode a large item; cancelled, it is left to the next one who asks."""
        if self._taking is None:
            self._taking = self._host._in_copier(stream.take_nowait)
        taking = self._taking
        await asyncio.wait([taking])
        self._taking = None
        try:
            return taking.result()
        finally:
            del taking  # or an error's traceback would keep itself alive

    async def aclose(self) -> None:
        """Cancel what is left of it; idempotent. A task that waits for an item sees the end."""
        self._closed = True
        self._news.set()
        taking = self._taking
        if taking is None:
            self._give_up()
        else:  # a thread has the stream just now
            taking.add_done_callback(lambda _: self._give_up())
            await asyncio.wait([taking])

    def _give_up(self) -> None:
        if not self._future.cancel() and self._future.exception() is None:
            self._future.result().close()  # it was opened

    @property
    def _what(self) -> str:
        return f"stream {self._future.method}() of plugin {self._future.group.name!r}"

    async def __aenter__(self) -> Self:
        async with self._turn:
            if await self._opened() is None:
                raise HubClosedError(f"{self._what} is closed")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _begins_large(stream: Stream) -> bool:
    """Is the next item here, and large?"""
    if not stream._items:
        return False
    frame = stream._items[0]
    return len(frame.data if type(frame) is Message else frame) >= LARGE
