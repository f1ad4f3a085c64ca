"""Reads and writes the bytes of a hub's file by the offsets of format version 1 (docs/layout.md).

Written independently of the product: it finds what the product wrote, and damages it.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

# name -> (offset, struct format)
HEADER_FIELDS = {
    "magic": (0, "<Q"),
    "version_major": (8, "<H"),
    "version_minor": (10, "<H"),
    "header_size": (12, "<I"),
    "total_size": (16, "<Q"),
    "class_count": (24, "<I"),
    "max_peers": (28, "<I"),
    "ring_capacity": (32, "<I"),
    "host_pid": (36, "<i"),
    "max_bytes": (40, "<Q"),
    "spin_ns": (48, "<q"),
    "classes_offset": (56, "<Q"),
    "signals_offset": (64, "<Q"),
    "peers_offset": (72, "<Q"),
    "host_lane_offset": (80, "<Q"),
    "blocks_offset": (88, "<Q"),
    "block_stride": (96, "<Q"),
    "data_offset": (104, "<Q"),
    "created_realtime_ns": (112, "<Q"),
    "host_closed": (120, "<I"),
}
_CLASS_BYTES = 256
_PEER_BYTES = 64
_SIGNALS_BYTES = 192
_LANE_BYTES = 128
_RING_BYTES = 192
CELL = 64
SLOT_META = 16


class Region(NamedTuple):
    """A named stretch of the file."""

    name: str
    start: int
    length: int


class Header:
    """A writable mapping of a hub's metadata."""

    def __init__(self, fd: int) -> None:
        self._file = fd
        with mmap.mmap(fd, 4096) as first:
            (length,) = struct.unpack_from("<Q", first, HEADER_FIELDS["data_offset"][0])
        size = os.fstat(fd).st_size
        self.map = mmap.mmap(fd, min(max(length, 4096), size))
        # Where things lie is read from here, so that damage does not lead astray who does it.
        self._as_found = bytes(self.map)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Header:
        fd = os.open(Path(path), os.O_RDWR)
        try:
            return cls(fd)
        finally:
            os.close(fd)  # the mapping keeps the file

    def __enter__(self) -> Header:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.map.close()

    def read(self, field: str) -> int:
        offset, code = HEADER_FIELDS[field]
        return int(struct.unpack_from(code, self.map, offset)[0])

    def _found(self, field: str) -> int:
        offset, code = HEADER_FIELDS[field]
        return int(struct.unpack_from(code, self._as_found, offset)[0])

    def write(self, field: str, value: int) -> None:
        offset, code = HEADER_FIELDS[field]
        struct.pack_into(code, self.map, offset, value)

    def regions(self, peer_id: int) -> list[Region]:
        """Everything in the metadata that a peer could damage, by name."""
        found = [
            Region("header", 0, 256),
            Region("signals", self._found("signals_offset"), _SIGNALS_BYTES),
            Region("peer entry", self._found("peers_offset") + _PEER_BYTES * peer_id, _PEER_BYTES),
            Region("host lane", self._found("host_lane_offset"), _LANE_BYTES),
        ]
        found += self._block(peer_id)
        found += self._classes()
        return [region for region in found if region.start + region.length <= len(self.map)]

    def _block(self, peer_id: int) -> list[Region]:
        block = self._found("blocks_offset") + (peer_id - 1) * self._found("block_stride")
        cells = CELL * self._found("ring_capacity")
        up = block + _LANE_BYTES
        down = up + _RING_BYTES + cells
        return [
            Region("lane", block, _LANE_BYTES),
            Region("ring up", up, _RING_BYTES),
            Region("cells up", up + _RING_BYTES, cells),
            Region("ring down", down, _RING_BYTES),
            Region("cells down", down + _RING_BYTES, cells),
        ]

    def _classes(self) -> list[Region]:
        found = []
        for index in range(self._found("class_count")):
            start = self._found("classes_offset") + index * _CLASS_BYTES
            meta, holders = struct.unpack_from("<QQ", self._as_found, start + 16)
            (slots,) = struct.unpack_from("<I", self._as_found, start + 44)
            found += [
                Region(f"class {index}", start, _CLASS_BYTES),
                Region(f"hot list {index}", start + 64, 8),
                Region(f"cold list {index}", start + 128, 8),
                Region(f"slots of class {index}", meta, SLOT_META * slots),
                Region(f"holders of class {index}", holders, 8 * slots),
            ]
        return found
