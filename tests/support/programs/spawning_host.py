"""A host that hands PeerInfo objects to spawned ``multiprocessing`` processes."""

import multiprocessing
from typing import Any

import shmhub


def worker(info: Any) -> None:
    with shmhub.HubPeerTransport.from_argv(info.argv, name="worker") as hub:
        for frame in hub:
            hub.send(bytes(frame).upper(), **frame.reply_to())


def main(path: str | None) -> None:
    context = multiprocessing.get_context("spawn")
    with shmhub.HubHost.create(path) as host:
        infos = [host.add_peer() for _ in range(2)]
        processes = [context.Process(target=worker, args=(info,)) for info in infos]
        transports = [
            shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell) for info in infos
        ]
        for process in processes:
            process.start()
        for number, transport in enumerate(transports):
            sent = transport.send(f"hello {number}".encode())
            with transport.recv(timeout=30) as frame:
                assert bytes(frame) == f"HELLO {number}".encode(), bytes(frame)
                assert frame.message_id == sent
            transport.close()
        for process in processes:
            process.join()
            assert process.exitcode == 0, process.exitcode
    print("all right")


if __name__ == "__main__":
    import sys

    main(sys.argv[1] if len(sys.argv) > 1 else None)
