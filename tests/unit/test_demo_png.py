"""The demo's PNG codec against an encoder and a decoder written here, byte by byte, from the
specification: no code and no trick is shared with the one under test."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmhub.demo import filters, png

KINDS = [(c, d) for c, ds in png.DEPTHS.items() for d in ds]
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}

Grid = list[list[tuple[int, ...]]]


# -- the reference -------------------------------------------------------------------------------


def adam7(width: int, height: int) -> list[list[list[tuple[int, int]]]]:
    """Coordinates of the pixels of each pass, read off the specification's 8 x 8 pattern."""
    pattern = [
        "16462646",
        "77777777",
        "56565656",
        "77777777",
        "36463646",
        "77777777",
        "56565656",
        "77777777",
    ]
    passes = []
    for number in "1234567":
        rows = []
        for y in range(height):
            row = [(x, y) for x in range(width) if pattern[y % 8][x % 8] == number]
            if row:
                rows.append(row)
        if rows:
            passes.append(rows)
    return passes


def coordinates(width: int, height: int, interlace: int) -> list[list[list[tuple[int, int]]]]:
    if interlace:
        return adam7(width, height)
    return [[[(x, y) for x in range(width)] for y in range(height)]]


def pack_row(pixels: list[tuple[int, ...]], depth: int) -> bytes:
    samples = [sample for pixel in pixels for sample in pixel]
    if depth == 16:
        return b"".join(sample.to_bytes(2, "big") for sample in samples)
    bits = "".join(format(sample, f"0{depth}b") for sample in samples)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def unpack_row(row: bytes, depth: int, channels: int, count: int) -> list[tuple[int, ...]]:
    bits = "".join(format(byte, "08b") for byte in row)
    samples = [int(bits[i : i + depth], 2) for i in range(0, count * channels * depth, depth)]
    return [tuple(samples[i : i + channels]) for i in range(0, len(samples), channels)]


def predictor(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 4:
        guess = left + up - corner
        near = [abs(guess - left), abs(guess - up), abs(guess - corner)]
        return (left, up, corner)[near.index(min(near))]
    return (0, left, up, (left + up) // 2)[kind]


def reference_filter(kind: int, row: bytes, above: bytes, unit: int) -> bytes:
    out = bytearray()
    for i, value in enumerate(row):
        left = row[i - unit] if i >= unit else 0
        corner = above[i - unit] if i >= unit else 0
        out.append((value - predictor(kind, left, above[i], corner)) % 256)
    return bytes(out)


def reference_unfilter(kind: int, row: bytes, above: bytes, unit: int) -> bytes:
    out = bytearray()
    for i, value in enumerate(row):
        left = out[i - unit] if i >= unit else 0
        corner = above[i - unit] if i >= unit else 0
        out.append((value + predictor(kind, left, above[i], corner)) % 256)
    return bytes(out)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def reference_encode(
    grid: Grid,
    colour: int,
    depth: int,
    interlace: int,
    kinds: list[int],
    *,
    pieces: int = 1,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    width, height = len(grid[0]), len(grid)
    unit = max(1, depth * CHANNELS[colour] // 8)
    data = bytearray()
    number = 0
    for rows in coordinates(width, height, interlace):
        above = b""
        for row in rows:
            packed = pack_row([grid[y][x] for x, y in row], depth)
            kind = kinds[number % len(kinds)]
            number += 1
            above = above or bytes(len(packed))
            data.append(kind)
            data += reference_filter(kind, packed, above, unit)
            above = packed
    deflated = zlib.compress(bytes(data))
    step = -(-len(deflated) // pieces)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + palette
        + b"".join(chunk(b"IDAT", deflated[i : i + step]) for i in range(0, len(deflated), step))
        + after
        + chunk(b"IEND", b"")
    )


def reference_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        assert data[position : position + 12 + length] == chunk(kind, body)
        yield kind, body
        position += 12 + length


def reference_decode(data: bytes) -> Grid:
    chunks = list(reference_chunks(data))
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    raw = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    channels = CHANNELS[colour]
    unit = max(1, depth * channels // 8)
    grid: Grid = [[() for _ in range(width)] for _ in range(height)]
    position = 0
    for rows in coordinates(width, height, interlace):
        above = b""
        for row in rows:
            length = (len(row) * depth * channels + 7) // 8
            above = above or bytes(length)
            body = raw[position + 1 : position + 1 + length]
            above = reference_unfilter(raw[position], body, above, unit)
            for (x, y), pixel in zip(
                row, unpack_row(above, depth, channels, len(row)), strict=True
            ):
                grid[y][x] = pixel
            position += 1 + length
    assert position == len(raw)
    return grid


def make_grid(rng: random.Random, width: int, height: int, colour: int, depth: int) -> Grid:
    """Noise, or something smoother, so that every filter gets its turn to be the best."""
    top = (1 << depth) - 1
    smooth = rng.random() < 0.6

    def sample(x: int, y: int, channel: int) -> int:
        if smooth:
            return (x * 3 + y * 5 * channel + rng.randrange(2)) & top
        return rng.randint(0, top)

    return [
        [tuple(sample(x, y, c) for c in range(CHANNELS[colour])) for x in range(width)]
        for y in range(height)
    ]


# -- round trips ---------------------------------------------------------------------------------


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize(("colour", "depth"), KINDS)
@settings(max_examples=12, deadline=None)
@given(
    width=st.integers(1, 19),
    height=st.integers(1, 19),
    kinds=st.lists(st.integers(0, 4), min_size=1, max_size=7),
    pieces=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_pixels_survive(
    colour: int,
    depth: int,
    interlace: int,
    width: int,
    height: int,
    kinds: list[int],
    pieces: int,
    seed: int,
) -> None:
    grid = make_grid(random.Random(seed), width, height, colour, depth)
    source = reference_encode(grid, colour, depth, interlace, kinds, pieces=pieces)
    raster = png.decode(source, bytearray)
    result = png.encode(raster)
    assert reference_decode(result) == grid
    assert png.decode(result, bytearray) == raster


@pytest.mark.parametrize("kind", filters.ALL)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), unit=st.sampled_from([1, 2, 3, 4, 6, 8]), length=st.integers(1, 90))
def test_filters_are_those_of_the_specification(
    kind: int, data: st.DataObject, unit: int, length: int
) -> None:
    edges = st.sampled_from([0, 1, 127, 128, 129, 254, 255])
    rows = st.lists(edges | st.integers(0, 255), min_size=length, max_size=length).map(bytes)
    row, above = data.draw(rows), data.draw(rows)
    expected = reference_filter(kind, row, above, unit)
    row_filter = filters.RowFilter(length, unit)
    got = row_filter.apply(kind, int.from_bytes(row, "little"), int.from_bytes(above, "little"))
    assert got.to_bytes(length, "little") == expected
    assert row_filter.undo(kind, expected, above) == row


@settings(max_examples=60, deadline=None)
@given(row=st.binary(min_size=40, max_size=40), above=st.binary(min_size=40, max_size=40))
def test_the_chosen_filter_has_the_least_sum_of_differences(row: bytes, above: bytes) -> None:
    kind, filtered = filters.RowFilter(40, 4).choose(
        int.from_bytes(row, "little"), int.from_bytes(above, "little")
    )
    outputs = [reference_filter(k, row, above, 4) for k in filters.ALL]
    sums = [sum(min(byte, 256 - byte) for byte in output) for output in outputs]
    assert sums[kind] == min(sums)
    assert filtered.to_bytes(40, "little") == outputs[kind]


def test_large_images_use_only_filters_that_are_quick_to_undo() -> None:
    header = png.Header(1400, 1100, 8, 2)
    assert header.pixels_size() > png._QUICK_ABOVE
    ramp = bytes((x * 7 + x * x // 50) & 255 for x in range(4200 + 1100 * 3))
    rows = b"".join(ramp[3 * y : 3 * y + 4200] for y in range(1100))
    result = png.encode(png.make_raster(header, rows))
    raw = zlib.decompress(b"".join(b for k, b in reference_chunks(result) if k == b"IDAT"))
    assert set(raw[:: 4200 + 1]) <= set(filters.QUICK)
    assert png.decode(result, bytearray)[-len(rows) :] == rows


def test_other_chunks_are_kept_where_they_were() -> None:
    grid = make_grid(random.Random(3), 9, 9, 6, 8)
    before = chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"tEXt", b"Author\0nobody")
    after = chunk(b"tIME", bytes(7)) + chunk(b"prVt", b"what only its maker knows")
    source = reference_encode(grid, 6, 8, 0, [4], before=before, after=after, pieces=3)
    kinds = [kind for kind, _ in reference_chunks(png.encode(png.decode(source, bytearray)))]
    assert kinds == [b"IHDR", b"gAMA", b"tEXt", b"IDAT", b"tIME", b"prVt", b"IEND"]


def test_a_raster_is_what_its_description_says() -> None:
    grid: Grid = [[(1, 2, 3), (4, 5, 6)], [(7, 8, 9), (10, 11, 12)]]
    text = chunk(b"tEXt", b"k\0v")
    raster = bytes(png.decode(reference_encode(grid, 2, 8, 0, [4], before=text), bytearray))
    header = png.Header(2, 2, 8, 2)
    assert raster == bytes(png.make_raster(header, bytes(range(1, 13)), before=text))
    assert raster[:4] == b"RAS1"
    assert raster[4:17] == struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0)
    assert raster[17:25] == struct.pack("<II", len(text), 0)
    assert raster[25:] == text + bytes(range(1, 13))


def test_decoding_leaves_no_view_of_the_buffer() -> None:
    raster = png.decode(
        reference_encode(make_grid(random.Random(1), 5, 5, 0, 8), 0, 8, 1, [3]), bytearray
    )
    raster.append(0)  # raises BufferError while anything still exports it


# -- what is not a PNG, or a broken one -----------------------------------------------------------


GOOD = reference_encode(
    make_grid(random.Random(7), 12, 10, 2, 8), 2, 8, 0, [0, 1, 2, 3, 4], pieces=2
)


def rebuilt(change: str, body: bytes = b"") -> bytes:
    """GOOD with one chunk changed, checksums right."""
    out = b"\x89PNG\r\n\x1a\n"
    for kind, content in reference_chunks(GOOD):
        if change == "drop " + kind.decode():
            continue
        if change == "before " + kind.decode():
            out += body
        out += chunk(kind, body if change == kind.decode() else content)
    return out


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "signature"),
        (b"GIF89a" + bytes(100), "signature"),
        (GOOD[:8], "ends before"),
        (GOOD[:20], "ends within"),
        (GOOD[:-12], "ends before"),
        (GOOD[:60], "ends within its IDAT"),
        (GOOD[:45] + bytes([GOOD[45] ^ 1]) + GOOD[46:], "checksum of the IDAT"),
        (rebuilt("drop IDAT"), "no image data"),
        (rebuilt("drop IHDR"), "first chunk"),
        (rebuilt("IHDR", struct.pack(">IIBBBBB", 0, 4, 8, 2, 0, 0, 0)), "impossible size"),
        (rebuilt("IHDR", struct.pack(">IIBBBBB", 12, 10, 4, 2, 0, 0, 0)), "impossible colour"),
        (rebuilt("IHDR", struct.pack(">IIBBBBB", 12, 10, 8, 5, 0, 0, 0)), "impossible colour"),
        (rebuilt("IHDR", struct.pack(">IIBBBBB", 12, 10, 8, 2, 1, 0, 0)), "unknown compression"),
        (rebuilt("IHDR", struct.pack(">IIBBBBB", 12, 10, 8, 2, 0, 0, 2)), "unknown compression"),
        (rebuilt("IHDR", struct.pack(">IIBBBBB", 12, 10, 8, 3, 0, 0, 0)), "without a palette"),
        (rebuilt("IHDR", struct.pack(">IIBBBBB", 12, 11, 8, 2, 0, 0, 0)), "ends early"),
        (rebuilt("IHDR", struct.pack(">IIBBBBB", 12, 9, 8, 2, 0, 0, 0)), "more image data"),
        (rebuilt("IHDR", struct.pack(">IIBBBBB", 2**30, 2**30, 16, 6, 0, 0, 0)), "more than"),
        (rebuilt("IDAT", zlib.compress(b"\5" * 370)), "broken|more image data|row filter 5"),
        (rebuilt("IDAT", b"not deflated"), "broken image data"),
        (rebuilt("before IEND", chunk(b"CRIT", b"")), "critical chunk CRIT"),
        (rebuilt("before IEND", chunk(b"gAMA", b"") + chunk(b"IDAT", b"")), "two places"),
        (rebuilt("before IEND", chunk(b"PLTE", bytes(3))), "palette where none"),
        (rebuilt("before IDAT", chunk(b"PLTE", bytes(4))), "palette of 4|palette where none"),
        (rebuilt("before IEND", chunk(b"a1b2", b"")), "four letters"),
    ],
)
def test_refused_with_its_reason(data: bytes, message: str) -> None:
    with pytest.raises(png.PngError, match=message):
        png.decode(data, bytearray)


def test_a_wrong_row_filter_is_refused() -> None:
    header = png.Header(4, 2, 8, 0)
    data = png.write(header, zlib.compress(b"\0abcd\5efgh"))
    with pytest.raises(png.PngError, match="row filter 5"):
        png.decode(data, bytearray)


def test_a_wrong_checksum_of_the_pixels_is_refused() -> None:
    deflated = bytearray(zlib.compress(b"\0abcd\0efgh"))
    deflated[-1] ^= 1
    with pytest.raises(png.PngError, match="incorrect data check"):
        png.decode(png.write(png.Header(4, 2, 8, 0), bytes(deflated)), bytearray)


def test_a_bomb_is_refused_before_memory_is_asked_for() -> None:
    def alloc(nbytes: int) -> bytearray:
        raise AssertionError(f"asked for {nbytes} bytes")

    huge = png.write(png.Header(60000, 60000, 8, 2), zlib.compress(bytes(100)))
    with pytest.raises(png.PngError, match="more than the"):
        png.decode(huge, alloc)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_never_raises_anything_else(data: st.DataObject) -> None:
    broken = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(broken) - 1))
        if data.draw(st.booleans()):
            broken[position] = data.draw(st.integers(0, 255))
        else:
            del broken[position : position + data.draw(st.integers(1, 40))]
        if not broken:
            break
    try:
        raster = png.decode(bytes(broken), bytearray)
    except png.PngError:
        return
    assert raster == png.decode(GOOD, bytearray)  # e.g. bytes after IEND, or no change at all


@pytest.mark.parametrize("cut", [0, 10, 24, -1])
def test_a_broken_raster_is_refused(cut: int) -> None:
    raster = bytes(png.decode(GOOD, bytearray))
    with pytest.raises(png.PngError, match="raster"):
        png.encode(raster[:cut])
    with pytest.raises(png.PngError, match="raster"):
        png.encode(b"XXXX" + raster[4:])
