"""What a forked child may and may not do with the hub objects of its parent.

Runs in a child of the nursery, which forks itself: the tests' own process is left out of it.
"""

from __future__ import annotations

import gc
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import shmhub


def run(*, fds: dict[str, int]) -> int:
    """Host and peer in one process; forks, uses everything in the child, reports what it got."""
    host = shmhub.HubHost.create()
    info = host.add_peer()
    transport = shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell)
    peer = shmhub.HubPeer.open(f"/proc/self/fd/{host.fileno()}", info.peer_id)
    peer.register()
    doorbell = shmhub.Doorbell.from_raw_fd(os.dup(info.peer_doorbell_fd))
    peer_transport = shmhub.HubPeerTransport(peer, doorbell, "forked")
    peer_transport.send(b"f" * 5000)
    frame = transport.recv(timeout=10)
    slot = transport.alloc(5000)
    slot.write(b"s" * 5000)
    uses: dict[str, Callable[[], Any]] = {
        "transport.send": lambda: transport.send(b"x"),
        "transport.send large": lambda: transport.send(b"x" * 5000),
        "transport.recv": lambda: transport.recv(timeout=0),
        "transport.recv_nowait": transport.recv_nowait,
        "transport.alloc": lambda: transport.alloc(5000, timeout=0),
        "transport.alloc_nowait": lambda: transport.alloc_nowait(5000),
        "peer_transport.send": lambda: peer_transport.send(b"x"),
        "peer_transport.recv": lambda: peer_transport.recv(timeout=0),
        "host.add_peer": host.add_peer,
        "host.statistics": host.statistics,
        "host.trim": host.trim,
        "peer.register": peer.register,
        "slot.write": lambda: slot.write(b"x"),
        "slot.resize": lambda: slot.resize(10),
        "transport.send slot": lambda: transport.send(slot),
    }
    pid = os.fork()
    if pid == 0:
        _in_the_child(uses, fds["report"], [host, transport, peer, peer_transport, frame, slot])
    assert os.waitpid(pid, 0)[1] == 0, "the child died"
    # The parent's hub is untouched.
    assert bytes(frame) == b"f" * 5000
    with memoryview(slot) as view:
        assert view == b"s" * 5000
    owned = sum(entry.owned for entry in host.statistics().size_classes)
    assert owned == 2, owned
    transport.send(b"still works")
    with peer_transport.recv(timeout=10) as received:
        assert bytes(received) == b"still works"
    slot.release()
    frame.release()
    peer_transport.close()
    peer.close()
    transport.close()
    host.close()
    return 0


def _in_the_child(uses: dict[str, Callable[[], Any]], report: int, things: list[Any]) -> None:
    results = {}
    for name, use in uses.items():
        try:
            use()
        except Exception as error:
            results[name] = type(error).__name__
        else:
            results[name] = "no error"
    for thing in things:
        for method in ("release", "close"):
            if hasattr(thing, method):
                getattr(thing, method)()  # allowed, and must do nothing to the parent's
    uses.clear()
    things.clear()
    gc.collect()
    os.write(report, json.dumps(results).encode())
    os._exit(0)


def run_with_a_waiting_thread(*, fds: dict[str, int]) -> int:
    """Forks while another thread waits in recv, with the service thread running."""
    host = shmhub.HubHost.create()
    info = host.add_peer()
    transport = shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell)
    errors: list[BaseException] = []
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        try:
            transport.recv()
        except shmhub.HubClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            try:
                transport.recv(timeout=1)
            except shmhub.HubForkedError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
    transport.close()
    thread.join()
    host.close()
    os.write(fds["report"], type(errors[0]).__name__.encode())
    return 0


def run_hub_of_its_own(*, fds: dict[str, int]) -> int:
    """A forked child makes a hub of its own, whatever became of its parent's."""
    host = shmhub.HubHost.create()
    pid = os.fork()
    if pid == 0:
        with shmhub.HubHost.create() as own:
            info = own.add_peer()
            with shmhub.HubHostPeerTransport(own, info.peer_id, info.doorbell) as transport:
                transport.alloc(5000).release()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    host.close()
    os.write(fds["report"], b"done")
    return 0
