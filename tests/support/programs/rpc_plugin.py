"""A plugin with one method for each thing that RPC tests ask for."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import os
import sys
import threading
import time
from typing import Any

import shmhub
from shmhub._rpc import Method, PeerEngine, Server, current_call
from shmhub._rpc import _wire as wire
from shmhub._rpc._payload import encode

engine: PeerEngine
_local = threading.local()


def echo(value: Any) -> Any:
    return value


def add(left: int, *, right: int = 1) -> int:
    return left + right


def fail(kind: str, *arguments: Any) -> None:
    if kind == "unpicklable":

        class Local(ValueError):
            def __init__(self, text: str) -> None:
                super().__init__(text)
                self.lock = threading.Lock()

        raise Local(*arguments)
    raise {**vars(__import__("builtins")), **vars(shmhub)}[kind](*arguments)


class Nameless(Exception):
    @property
    def name(self) -> str:
        raise RuntimeError("it has none")


class Speechless(Exception):
    def __str__(self) -> str:
        sys.exit(5)


class Stubborn(Exception):
    """Ends the process of whoever rebuilds it."""

    def __reduce__(self) -> Any:
        return sys.exit, (7,)


class Unspeakable(Exception):
    """Not even isinstance() can be asked about it."""

    @property
    def __class__(self) -> Any:
        sys.exit(8)


class Unsendable:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def odd(kind: str) -> Any:
    """Raises or returns what cannot be told, or not as others are."""
    if kind == "GeneratorExit":
        raise GeneratorExit
    if kind in ("SystemExit", "KeyboardInterrupt"):
        return Unsendable(getattr(builtins, kind)("while pickling"))
    raise globals()[kind]("odd")


async def aodd(kind: str) -> Any:
    return odd(kind)


def odd_items(kind: str) -> Any:
    yield odd(kind)


async def aodd_items(kind: str) -> Any:
    yield odd(kind)


def recurse() -> None:
    recurse()


def view(data: memoryview) -> tuple[str, int]:
    return type(data).__name__, len(data)


def kinds(*values: Any, **named: Any) -> list[str]:
    return [type(one).__name__ for one in (*values, *named.values())]


def unencodable() -> Any:
    return threading.Lock()


def size(nbytes: int) -> bytes:
    return bytes(nbytes)


def until_cancelled() -> str:
    call = current_call()
    while not call.cancelled:
        time.sleep(0.001)
    return "cancelled"


def wait_for(path: str) -> None:
    """Until that file exists."""
    while not os.path.exists(path):
        time.sleep(0.002)


def seen_call() -> dict[str, Any]:
    call = current_call()
    return {"method": call.method, "caller": call.caller, "deadline": call.deadline}


def down(depth: int) -> int:
    """Calls back into the host, which calls this again, `depth` times."""
    _local.depth = getattr(_local, "depth", 0) + 1
    try:
        return 0 if depth == 0 else 1 + engine.host.call("up", (depth - 1,))
    finally:
        _local.depth -= 1


def ask(name: str, *args: Any) -> Any:
    return engine.host.call(name, args)


def depth() -> int:
    """How many calls run in this thread."""
    return int(getattr(_local, "depth", 0))


def thread() -> int:
    return threading.get_ident()


def count(stop: int, nbytes: int = 0) -> Any:
    """Items, and then an error if `stop` is odd."""
    for number in range(stop):
        _local.produced = number + 1
        yield bytes(nbytes) if nbytes else number
    if stop % 2:
        raise ValueError("odd")


def produced() -> int:
    return int(getattr(_local, "produced", 0))


async def acount(stop: int, nbytes: int = 0) -> Any:
    for number in range(stop):
        await asyncio.sleep(0)
        yield bytes(nbytes) if nbytes else number
    if stop % 2:
        raise ValueError("odd")


def total(numbers: Any, *, others: Any = ()) -> int:
    return sum(numbers) + sum(others)


def take(items: Any, most: int) -> list[Any]:
    return [item for _, item in zip(range(most), items, strict=False)]


def sizes(items: Any) -> list[int]:
    return [len(item) for item in items]


def flood(name: str, count: int) -> int:
    """How many of so many calls back are refused; the others are left alone."""
    calls = [engine.host.begin(name, ()) for _ in range(count)]
    refused = 0
    for call in reversed(calls):
        if call.wait(time.monotonic() + 0.5) and call.started is False:
            refused += 1
        else:
            break
    for call in calls:
        call.cancel()
    return refused


def lockstep(left: Any, right: Any) -> list[tuple[bytes, bytes]]:
    """What the bytes of each pair of items are."""
    return [
        (bytes(sorted(set(one))), bytes(sorted(set(other))))
        for one, other in zip(left, right, strict=True)
    ]


def overrun(count: int) -> Any:
    """Sends more items than it has credit for."""
    for number in range(count):
        encoded = encode(number, engine.host.plain)
        engine.host.send_flow(wire.ITEM, current_call().id, 0, encoded, number=number)
    yield "the end"


def parts(call_id: int, kind: int, count: int, nbytes: int) -> None:
    """Sends parts of messages that nobody waits for."""
    for number in range(count):
        engine.transport.post(
            bytes(nbytes), 0, wire.PART, kind, wire.FIRST, call_id + number, None, None
        )


def odd_parts(count: int) -> None:
    """Sends parts that are of no answer to this call: of no such kind, or of no such stream."""
    call_id = current_call().id
    for number in range(count):
        flags = wire.FIRST | number << wire.TREE_SHIFT
        for kind in (number, wire.ITEM & 0xFF, wire.RESULT & 0xFF):
            engine.transport.post(bytes(90), 0, wire.PART, kind, flags, call_id, None, None)


def doubled(items: Any) -> Any:
    for item in items:
        yield 2 * item


def ask_forever() -> Any:
    yield 1
    call = current_call()
    while not call.cancelled:
        time.sleep(0.001)


def pull(name: str, most: int) -> list[Any]:
    return list(engine.host.open_stream(name, (most,)))


def push(name: str, most: int) -> Any:
    return engine.host.call(name, ((number for number in range(most)),))


async def sleep(seconds: float, value: Any = None) -> Any:
    await asyncio.sleep(seconds)
    return value


async def forever() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        engine.host.notify("told", ("cancelled",))
        raise


async def wait_for_a_copier(path: str) -> bytes:
    """Its result is large; whoever could copy it off the loop is busy until that file exists."""
    loop = asyncio.get_running_loop()
    for _ in range(64):
        loop.run_in_executor(None, wait_for, path)
    engine.host.notify("told", ("busy",))
    return bytes(2 << 20)


def leave() -> None:
    os._exit(3)


def main() -> None:
    global engine
    options = dict(one.split("=", 1) for one in sys.argv[1:] if "=" in one and one[0] != "-")
    functions = [
        value
        for name, value in globals().items()
        if inspect.isfunction(value) and value.__module__ == __name__ and name != "main"
    ]
    methods = {one.name: one for one in map(Method.of, functions)}
    with shmhub.HubPeerTransport.from_argv(name="rpc") as transport:
        server = Server(methods, threads=int(options.get("threads", "1")), name="rpc")
        engine = PeerEngine(
            transport,
            server,
            hello={"pid": os.getpid(), "name": "rpc"},
            codec=options.get("codec", "pickle"),
        )
        engine.run()


if __name__ == "__main__":
    main()
