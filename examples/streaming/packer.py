"""The plugin: a stream in, a stream out, and one without end."""

import itertools
import zlib
from collections.abc import Iterable, Iterator

import shmhub

# Two: `made` is asked while `forever` keeps a thread busy.
plugin = shmhub.Plugin("packer", threads=2)
state = {"made": 0, "running": False}


@plugin.method
def compress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """A zlib stream of the chunks, which are read as they come."""
    packer = zlib.compressobj(level=1)
    for chunk in chunks:
        yield packer.compress(chunk)
    yield packer.flush()


@plugin.method
def forever() -> Iterator[bytes]:
    """Numbered blocks of 64 KiB, as fast as they are taken."""
    state.update(made=0, running=True)
    try:
        for number in itertools.count():
            state["made"] = number + 1
            yield number.to_bytes(8, "little") * 8192
    finally:
        state["running"] = False  # the reader has left, or the host is gone


@plugin.method
def made() -> int:
    """How many blocks `forever` has made so far."""
    return int(state["made"])


@plugin.method
def running() -> bool:
    """Is anybody in `forever`?"""
    return bool(state["running"])


if __name__ == "__main__":
    plugin.run()
