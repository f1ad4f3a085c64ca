"""Streams in both directions, and a slow reader: `python examples/streaming [MEBIBYTES]`."""

import hashlib
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import shmhub

CHUNK = b"all work and no play makes a dull payload\n" * 6_000  # 252 KB


def chunks(mebibytes: int) -> Iterator[bytes]:
    """What a large file would give, read piece by piece."""
    for _ in range(max(1, (mebibytes << 20) // len(CHUNK))):
        yield CHUNK


def through(packer: shmhub.PluginHandle, mebibytes: int) -> None:
    """Up as a stream, down as a stream; nobody ever has all of it."""
    unpacker = zlib.decompressobj()
    digest, packed, unpacked = hashlib.sha256(), 0, 0
    with packer.compress(chunks(mebibytes)) as pieces:
        for piece in pieces:
            packed += len(piece)
            plain = unpacker.decompress(piece)
            unpacked += len(plain)
            digest.update(plain)
    expected = hashlib.sha256()
    for chunk in chunks(mebibytes):
        expected.update(chunk)
    verdict = "the same" if digest.digest() == expected.digest() else "NOT THE SAME"
    print(f"{unpacked} bytes became {packed}, and are {verdict} again")


def slowly(packer: shmhub.PluginHandle) -> None:
    """Ten items of a stream without end."""
    with packer.forever() as blocks:
        for _ in range(10):
            next(blocks)
            time.sleep(0.02)  # what a slow reader does
        print(f"10 blocks were read, {packer.made()} were made: the plugin is held back")
    deadline = time.monotonic() + 30
    while packer.running() and time.monotonic() < deadline:
        time.sleep(0.01)
    print("the generator has " + ("NOT ENDED" if packer.running() else "ended"))


def main() -> None:
    mebibytes = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    with shmhub.PluginHost() as host:
        packer = host.spawn(Path(__file__).with_name("packer.py"))
        through(packer, mebibytes)
        slowly(packer)


if __name__ == "__main__":
    main()
