"""A plugin as its author would write it: answers every message with its own bytes, reversed."""

import shmhub


def main() -> None:
    with shmhub.HubPeerTransport.from_argv(name="echo") as hub:
        for frame in hub:
            hub.send(bytes(frame)[::-1], **frame.reply_to())


if __name__ == "__main__":
    main()
