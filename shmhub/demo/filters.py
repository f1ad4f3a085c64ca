"""The five row filters of PNG, both ways, at a speed that pure Python has no right to.

A row is one big integer, a byte of it a lane, so that a handful of additions and masks filters
the whole row at once ("SIMD within a register", with a register as long as a row). Only undoing
Average and Paeth goes byte by byte: there every byte needs the one before it.

Filters as in the PNG specification, section 9. Byte order is little-endian throughout: the left
neighbour of a byte lies `8 * unit` bits lower. Unaware of chunks, deflate and images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

__all__ = ["ALL", "AVERAGE", "NONE", "PAETH", "QUICK", "SUB", "UP", "RowFilter", "row_filter"]

NONE: Final = 0
SUB: Final = 1
UP: Final = 2
AVERAGE: Final = 3
PAETH: Final = 4

ALL: Final = (NONE, SUB, UP, AVERAGE, PAETH)
QUICK: Final = (NONE, SUB, UP)
"""Those that are undone a row at a time."""

_SUM_MODULUS: Final = (1 << 32) - 1


class RowFilter:
    """Filters and unfilters rows of `length` bytes with `unit` bytes a pixel (at least 1)."""

    def __init__(self, length: int, unit: int) -> None:
        self.length = length
        self.unit = unit
        self._shift = 8 * unit
        self._row = (1 << (8 * length)) - 1
        self._low7 = self._lanes(1, 0x7F)
        self._high = self._lanes(1, 0x80)
        self._one = self._lanes(1, 0x01)
        self._even = self._lanes(2, 0xFF)  # every second byte, with room above for a carry
        self._even_one = self._lanes(2, 0x01)
        self._pairs = self._lanes(4, 0xFFFF)

    def _lanes(self, step: int, value: int) -> int:
        count = -(-self.length // step)
        return int.from_bytes(value.to_bytes(step, "little") * count, "little")

    # -- sums of lanes ---------------------------------------------------------------------------

    def _add(self, a: int, b: int) -> int:
        """Bytewise a + b modulo 256: the top bits are added without their carry."""
        return ((a & self._low7) + (b & self._low7)) ^ ((a ^ b) & self._high)

    def _subtract(self, a: int, b: int) -> int:
        """Bytewise a - b modulo 256: a borrowed top bit stops each lane's borrow."""
        high = self._high
        return ((a | high) - (b & self._low7)) ^ ((a ^ b ^ high) & high)

    def _left(self, row: int) -> int:
        return (row << self._shift) & self._row

    # -- filtering -------------------------------------------------------------------------------

    def apply(self, kind: int, row: int, above: int) -> int:
        """The filtered bytes of `row`, whose upper neighbour is `above` (0 for a first row)."""
        if kind == NONE:
            return row
        if kind == SUB:
            return self._subtract(row, self._left(row))
        if kind == UP:
            return self._subtract(row, above)
        if kind == AVERAGE:
            return self._subtract(row, self._average(self._left(row), above))
        return self._subtract(row, self._paeth(self._left(row), above, self._left(above)))

    def choose(self, row: int, above: int, kinds: Sequence[int] = ALL) -> tuple[int, int]:
        """The filter whose output is nearest to zero, and that output.

        "Minimum sum of absolute differences", PNG specification, section 12.8.
        """
        best = -1
        chosen = (NONE, row)
        for kind in kinds:
            filtered = self.apply(kind, row, above)
            distance = self._distance(filtered)
            if best < 0 or distance < best:
                best, chosen = distance, (kind, filtered)
        return chosen

    def _distance(self, filtered: int) -> int:
        """The sum over all bytes, taken as signed, of their absolute value."""
        negative = (filtered >> 7) & self._one
        flip = (negative << 8) - negative
        magnitude = (filtered ^ flip) + negative  # at most 128 a lane: no carry
        twos = (magnitude & self._even) + ((magnitude >> 8) & self._even)
        fours = (twos & self._pairs) + ((twos >> 16) & self._pairs)
        # A number's digits in base 2**32 add up to it, modulo 2**32 - 1.
        return fours % _SUM_MODULUS

    def _average(self, left: int, above: int) -> int:
        """Bytewise (left + above) // 2, without needing a ninth bit."""
        return (left & above) + (((left ^ above) >> 1) & self._low7)

    def _paeth(self, left: int, above: int, corner: int) -> int:
        """Bytewise whichever neighbour is nearest to left + above - corner."""
        even = self._even
        low = self._paeth_lanes(left & even, above & even, corner & even)
        high = self._paeth_lanes((left >> 8) & even, (above >> 8) & even, (corner >> 8) & even)
        return low | (high << 8)

    def _paeth_lanes(self, a: int, b: int, c: int) -> int:
        """`_paeth` in lanes of 16 bits that hold 8: differences get a bias, so none borrows."""
        one, full = self._even_one, self._even
        # |b - c| and |a - c|: the bias of 256 shows in bit 8 whether the difference is negative.
        distance_a = self._magnitude((b | (one << 8)) - c)
        distance_b = self._magnitude((a | (one << 8)) - c)
        # |a + b - 2c|: the same with a bias of 512.
        both = a + b + (one << 9) - (c << 1)
        negative = ((both >> 9) & one) ^ one
        flip = (negative << 9) - negative
        distance_c = ((both & (full | (one << 8))) ^ flip) + negative

        bias = one << 10
        take_a = ((distance_b + bias - distance_a) >> 10) & ((distance_c + bias - distance_a) >> 10)
        take_a &= one
        take_b = ((distance_c + bias - distance_b) >> 10) & one & ~take_a
        mask_a = (take_a << 8) - take_a
        mask_b = (take_b << 8) - take_b
        return (a & mask_a) | (b & mask_b) | (c & (full ^ mask_a ^ mask_b))

    def _magnitude(self, biased: int) -> int:
        one = self._even_one
        negative = ((biased >> 8) & one) ^ one
        flip = (negative << 8) - negative
        return ((biased & self._even) ^ flip) + negative

    # -- unfiltering -----------------------------------------------------------------------------

    def undo(self, kind: int, filtered: bytes, above: bytes) -> bytes:
        """The row that was filtered; `above` is the unfiltered row before it (zeros for none).

        Raises `ValueError` for a filter that PNG does not have.
        """
        if kind == NONE:
            return filtered
        if kind == SUB:
            return self._undo_sub(int.from_bytes(filtered, "little"))
        if kind == UP:
            total = self._add(int.from_bytes(filtered, "little"), int.from_bytes(above, "little"))
            return total.to_bytes(self.length, "little")
        if kind == AVERAGE:
            return self._undo_serially(_undo_average, filtered, above)
        if kind == PAETH:
            return self._undo_serially(_undo_paeth, filtered, above)
        raise ValueError(f"row filter {kind}: PNG has filters 0 to 4")

    def _undo_sub(self, row: int) -> bytes:
        """Running sums over each pixel's bytes, in log2(pixels) steps over the whole row."""
        shift, end = self._shift, 8 * self.length
        while shift < end:
            row = self._add(row, (row << shift) & self._row)
            shift *= 2
        return row.to_bytes(self.length, "little")

    def _undo_serially(
        self, undo: Callable[[bytes, bytes], bytes], filtered: bytes, above: bytes
    ) -> bytes:
        row = bytearray(self.length)
        for lane in range(min(self.unit, self.length)):
            step = slice(lane, None, self.unit)
            row[step] = undo(filtered[step], above[step])
        return bytes(row)


def _undo_average(lane: bytes, above: bytes) -> bytes:
    left = 0
    return bytes(
        [left := (value + ((left + up) >> 1)) & 255 for value, up in zip(lane, above, strict=True)]
    )


def _undo_paeth(lane: bytes, above: bytes) -> bytes:
    out = bytearray()
    append = out.append
    left = corner = 0
    for value, up in zip(lane, above, strict=True):
        to_left = up - corner
        to_up = left - corner
        to_corner = to_left + to_up
        if to_left < 0:
            to_left = -to_left
        if to_up < 0:
            to_up = -to_up
        if to_corner < 0:
            to_corner = -to_corner
        if to_left > to_up or to_left > to_corner:
            left = up if to_up <= to_corner else corner
        left = (value + left) & 255
        append(left)
        corner = up
    return bytes(out)


@lru_cache(maxsize=64)
def row_filter(length: int, unit: int) -> RowFilter:
    """A shared `RowFilter`: its masks take longer to make than a short row takes to filter."""
    return RowFilter(length, unit)
