"""Agent commands of a peer: attach, send, receive, hold, release, allocate, close."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from typing import Any

import shmhub
from tests.support import leaks, patterns
from tests.support.agent_store import VERBS, Store, verb
from tests.support.waiting import wait_asleep


@verb
def open_hub(store: Store, fds: list[int], *, peer_id: int, path: str | None = None) -> None:
    """Opens the hub at ``path``, or the one behind the descriptor that came along."""
    if path is not None:
        store.peer = shmhub.HubPeer.open(path, peer_id)
        return
    store.peer = shmhub.HubPeer.open(f"/proc/self/fd/{fds[0]}", peer_id)
    os.close(fds.pop(0))


@verb
def register(store: Store, fds: list[int]) -> None:
    assert store.peer is not None
    store.peer.register()


@verb
def connect(store: Store, fds: list[int], *, name: str = "main", **options: Any) -> None:
    """Makes the transport from the doorbell descriptor that came along."""
    doorbell = shmhub.Doorbell.from_raw_fd(fds.pop(0))
    store.transports[name] = shmhub.HubPeerTransport(store.peer, doorbell, name, **options)


@verb
def attach(store: Store, fds: list[int], *, peer_id: int, path: str | None = None) -> int:
    """All three steps; returns this process's id as the hub knows it."""
    open_hub(store, fds, peer_id=peer_id, path=path)
    register(store, fds)
    connect(store, fds)
    return os.getpid()


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if value is not None}


@verb
def send(
    store: Store,
    fds: list[int],
    *,
    count: int = 1,
    size: int = 64,
    sizes: list[int] | None = None,
    sender: int = 0,
    first: int = 0,
    via: str = "main",
    nowait: bool = False,
    timeout: float | None = None,
    **fields: Any,
) -> list[int]:
    """Sends patterned payloads number first .. first+count-1; returns their message ids."""
    transport = store.transport(via)
    each = sizes if sizes is not None else [size]
    ids = []
    for sequence in range(first, first + count):
        payload = patterns.make(each[sequence % len(each)], sender, sequence)
        if nowait:
            ids.append(transport.send_nowait(payload, **fields))
        else:
            ids.append(transport.send(payload, timeout=timeout, **fields))
    return ids


@verb
def send_until_full(
    store: Store,
    fds: list[int],
    *,
    size: int = 64,
    sender: int = 0,
    to: int | None = None,
    via: str = "main",
) -> list[int]:
    """send_nowait until it would block; the message ids that went."""
    transport = store.transport(via)
    ids: list[int] = []
    while True:
        try:
            payload = patterns.make(size, sender, len(ids))
            ids.append(transport.send_nowait(payload, **_options({"to": to})))
        except (shmhub.WouldBlockError, shmhub.SlotsExhaustedError):
            return ids


@verb
def send_many(
    store: Store, fds: list[int], *, count: int, size: int, sender: int, via: str = "main"
) -> list[int]:
    payloads = [patterns.make(size, sender, sequence) for sequence in range(count)]
    return list(store.transport(via).send_many(payloads))


@verb
def answer(store: Store, fds: list[int], *, via: str = "main") -> dict[str, Any]:
    """Receives one message and answers it the way ``reply_to`` says; describes what it received."""
    transport = store.transport(via)
    with transport.recv(timeout=10) as frame:
        transport.send(bytes(frame), **frame.reply_to())
        return describe(frame)


def describe(frame: Any) -> dict[str, Any]:
    """A frame's fields and what its payload says, checked byte by byte."""
    payload = frame.payload
    found = patterns.check(payload) if len(payload) >= patterns.HEADER.size else None
    return {
        "message_id": frame.message_id,
        "channel": frame.channel,
        "method": frame.method,
        "flags": frame.flags,
        "deadline": frame.deadline,
        "peer_id": frame.peer_id,
        "length": len(payload),
        "sender": None if found is None else found.sender,
        "sequence": None if found is None else found.sequence,
        "bytes": bytes(payload) if found is None else None,
    }


@verb
def recv(
    store: Store,
    fds: list[int],
    *,
    count: int = 1,
    timeout: float | None = None,
    hold: bool = False,
    via: str = "main",
) -> list[dict[str, Any]]:
    """Receives ``count`` frames and checks them; with ``hold`` keeps them (their "key")."""
    received = []
    for _ in range(count):
        frame = store.transport(via).recv(timeout=timeout)
        fields = describe(frame)
        if hold:
            fields["key"] = store.hold(frame)
        else:
            frame.release()
        received.append(fields)
    return received


@verb
def drain(
    store: Store, fds: list[int], *, hold: bool = False, via: str = "main"
) -> list[dict[str, Any]]:
    """Everything that is there now; the host may have gone since it sent it."""
    received = []
    while True:
        try:
            received += recv(store, fds, timeout=0, hold=hold, via=via)
        except (shmhub.WouldBlockError, shmhub.HubTimeoutError, shmhub.HostGoneError):
            return received


@verb
def forward(store: Store, fds: list[int], *, key: int, **fields: Any) -> int:
    """Passes a held frame on without a copy."""
    message_id = store.transport().send(store.held[key], **fields)
    del store.held[key]
    return int(message_id)


@verb
def alloc(
    store: Store, fds: list[int], *, nbytes: int, count: int = 1, timeout: float | None = None
) -> list[int]:
    """Allocates and keeps slots; each is filled with a pattern whose sequence is its key."""
    keys = []
    for _ in range(count):
        slot = store.transport().alloc(nbytes, timeout=timeout)
        key = store.hold(slot)
        slot.write(patterns.make(nbytes, 0, key))
        keys.append(key)
    return keys


@verb
def alloc_until_exhausted(
    store: Store, fds: list[int], *, nbytes: int, via: str = "main"
) -> list[int]:
    """alloc_nowait until there is nothing left; keeps the slots, returns their capacities."""
    capacities = []
    while True:
        try:
            slot = store.transport(via).alloc_nowait(nbytes)
        except (shmhub.SlotsExhaustedError, shmhub.WouldBlockError):
            return capacities
        capacities.append(slot.capacity)
        store.hold(slot)


@verb
def send_slot(store: Store, fds: list[int], *, key: int, **fields: Any) -> int:
    message_id = store.transport().send(store.held[key], **fields)
    del store.held[key]
    return int(message_id)


@verb
def check_held(store: Store, fds: list[int], *, key: int, sequence: int | None = None) -> int:
    """The pattern in a held slot or frame is still what was written; returns its length."""
    with memoryview(store.held[key]) as view:
        return patterns.check(view, sequence=sequence).length


@verb
def release(store: Store, fds: list[int], *, keys: list[int] | None = None) -> int:
    """Gives back the named things, or all."""
    chosen = list(store.held) if keys is None else keys
    for key in chosen:
        store.held.pop(key).release()
    return len(chosen)


@verb
def close_transport(store: Store, fds: list[int], *, name: str = "main") -> None:
    store.transports.pop(name).close()


@verb
def close_peer(store: Store, fds: list[int]) -> None:
    assert store.peer is not None
    store.peer.close()


@verb
def alloc_via(store: Store, fds: list[int], *, nbytes: int, via: str) -> int:
    """Allocates and keeps one slot through a named transport."""
    return store.hold(store.transport(via).alloc(nbytes))


@verb
def wait_in_asyncio(store: Store, fds: list[int], *, where: str) -> str:
    """Turns this peer's conversation into an asyncio one that waits; closes it when interrupted."""
    doorbell = shmhub.Doorbell.from_raw_fd(fds.pop(0))

    async def main() -> None:
        async with shmhub.aio.HubPeerTransport(store.peer, doorbell, "aio") as transport:
            calls = {
                "recv": transport.recv,
                "send": lambda: transport.send_many([b"fill"] * 1000),
                "alloc": lambda: transport.alloc(1000),
            }
            await calls[where]()

    asyncio.run(main())
    return "ended without being interrupted"


@verb
def iterate(store: Store, fds: list[int], *, via: str = "main") -> list[dict[str, Any]]:
    """``for frame in transport`` to its end, which is the other side's orderly close."""
    return [describe(frame) for frame in store.transport(via)]


@verb
def statistics(store: Store, fds: list[int]) -> dict[str, int]:
    found = store.transport().statistics()
    return {name: getattr(found, name) for name in ("sent", "received", "waits", "rings_rung")}


@verb
def descriptors(store: Store, fds: list[int]) -> dict[int, str]:
    return leaks.open_descriptors(os.getpid())


@verb
def pid(store: Store, fds: list[int]) -> int:
    return os.getpid()


@verb
def kill_self(store: Store, fds: list[int]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@verb
def leave(store: Store, fds: list[int], *, code: int = 0) -> None:
    """Ends the program in good order after this command."""
    store.exiting = True
    store.exit_code = code


@verb
def shut_down_sockets(store: Store, fds: list[int], *, numbers: list[int]) -> int:
    """Hangs up every connected stream socket but the control socket, without closing anything."""
    done = 0
    for number in numbers:
        try:
            with socket.socket(fileno=os.dup(number)) as copy:
                if copy.type == socket.SOCK_STREAM:
                    copy.shutdown(socket.SHUT_RDWR)
                    done += 1
        except OSError:
            continue
    return done


@verb
def mappings(store: Store, fds: list[int]) -> list[str]:
    return leaks.shared_mappings(os.getpid())


@verb
def collect(store: Store, fds: list[int]) -> int:
    """Lets go of everything that was closed, and collects garbage."""
    store.peer = None
    return gc.collect()


@verb
def exit_now(store: Store, fds: list[int], *, code: int) -> None:
    """Ends the process at once, closing nothing: what a program that calls os._exit does."""
    os._exit(code)


@verb
def signal_when_asleep(store: Store, fds: list[int], *, pid: int) -> None:
    """Sends SIGUSR2 to the main thread of another process once that sleeps."""
    wait_asleep(pid, pid)
    os.kill(pid, signal.SIGUSR2)


@verb
def signal_and_send(store: Store, fds: list[int], *, pid: int, number: int) -> None:
    """Interrupts a sleeping process three times, then sends what it waits for."""
    for _ in range(3):
        wait_asleep(pid, pid)
        os.kill(pid, number)
    wait_asleep(pid, pid)
    store.transport().send(b"after the signals")


_KEPT: list[Any] = []


@verb
def end_with_everything_open(store: Store, fds: list[int]) -> None:
    """Leaves the program's end to the interpreter: frame, view, slot and transport are alive."""
    frame = store.transport().recv(timeout=10)
    slot = store.transport().alloc(1000)
    _KEPT.extend([frame, memoryview(frame), slot, memoryview(slot), store.transport(), store.peer])
    store.transports.clear()
    store.peer = None
    store.exiting = True


@verb
def recv_raw(store: Store, fds: list[int], *, timeout: float) -> int:
    """Receives a payload that is no pattern; reads all of it, returns its length."""
    with store.transport().recv(timeout=timeout) as frame:
        return len(bytes(frame))


@verb
def when_asleep(
    store: Store, fds: list[int], *, pid: int, tid: int, command: str, arguments: dict[str, Any]
) -> Any:
    """Executes another command once the given thread sleeps: what it waits for comes in time."""
    wait_asleep(pid, tid)
    return VERBS[command](store, fds, **arguments)


@verb
def recv_bytes(store: Store, fds: list[int], *, timeout: float, via: str = "main") -> bytes:
    """The payload of one message, whatever it is."""
    with store.transport(via).recv(timeout=timeout) as frame:
        return bytes(frame)


@verb
def recv_labels(
    store: Store, fds: list[int], *, timeout: float, via: str = "main"
) -> dict[str, Any]:
    """What a message says beside its payload."""
    with store.transport(via).recv(timeout=timeout) as frame:
        names = ("message_id", "channel", "method", "flags", "deadline", "peer_id")
        return {name: getattr(frame, name) for name in names}


@verb
def release_via(store: Store, fds: list[int], *, via: str = "main") -> int:
    """``release`` of everything, for commands that name a transport."""
    return release(store, fds)


@verb
def exit_via(store: Store, fds: list[int], *, via: str = "main") -> None:
    exit_now(store, fds, code=0)
