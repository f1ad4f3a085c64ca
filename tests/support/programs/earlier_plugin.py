"""A plugin written with the names of the earlier design, its command line parsed by hand."""

import argparse

import shmhub


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hub-path", required=True)
    parser.add_argument("--peer-id", type=int, required=True)
    parser.add_argument("--doorbell-fd", type=int, required=True)
    arguments = parser.parse_args()

    peer = shmhub.HubPeer.open(arguments.hub_path, arguments.peer_id)
    peer.register()
    doorbell = shmhub.Doorbell.from_raw_fd(arguments.doorbell_fd)
    transport = shmhub.HubPeerTransport(peer, doorbell, "earlier")
    while True:
        try:
            frame = transport.recv()
        except shmhub.HostGoneError:
            break
        transport.send(frame.payload, message_id=frame.message_id)
        frame.release()
    transport.close()
    peer.close()


if __name__ == "__main__":
    main()
