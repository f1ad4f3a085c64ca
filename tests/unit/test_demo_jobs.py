"""The demo's protocol and work, text packing, and the plan of whom to kill."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmhub.demo import jobs, png, text
from shmhub.demo.files import Source
from shmhub.demo.jobs import Kind, Method, Outcome, Status
from shmhub.demo.killing import KillPlan
from shmhub.demo.tally import Task

PNG = png.encode(png.make_raster(png.Header(7, 5, 8, 2), random.Random(1).randbytes(105)))


# -- text ----------------------------------------------------------------------------------------


@given(st.binary(max_size=2000))
def test_text_comes_back(data: bytes) -> None:
    packed = text.pack(data)
    assert packed[:32] == hashlib.sha256(data).digest()
    assert zlib.decompress(packed[32:]) == data
    assert text.unpack(packed) == text.unpack(memoryview(packed)) == data


@given(st.binary(max_size=200), st.data())
def test_a_changed_byte_is_noticed_or_of_no_consequence(data: bytes, draw: st.DataObject) -> None:
    packed = bytearray(text.pack(data))
    position = draw.draw(st.integers(0, len(packed) - 1))
    packed[position] ^= draw.draw(st.integers(1, 255))
    with contextlib.suppress(ValueError):
        assert text.unpack(packed) == data  # deflate can say the same in several ways


# -- flags ---------------------------------------------------------------------------------------


@given(st.sampled_from(Status), st.none() | st.integers(0, 7))
def test_flags_hold_status_and_size_class(status: Status, size_class: int | None) -> None:
    flags = jobs.flags_for(status, size_class)
    assert 0 <= flags < 1 << 24  # the upper 8 bits are shmhub's own
    assert jobs.status_of(flags) is status
    assert jobs.size_class_of(flags) == size_class


def test_channels_are_left_to_shmhub() -> None:
    assert all(0 <= kind < 0xFF00 for kind in Kind)


# -- work ----------------------------------------------------------------------------------------


def test_each_method_does_its_work() -> None:
    assert jobs.do(Method.MINIFY, b"a { }", bytearray) == b"a{}"
    assert text.unpack(jobs.do(Method.PACK, b"abc", bytearray)) == b"abc"
    raster = jobs.do(Method.DECODE, PNG, bytearray)
    assert jobs.do(Method.ENCODE, raster, bytearray) == PNG


def test_the_decoder_writes_to_what_it_was_given() -> None:
    given_out = []

    def alloc(nbytes: int) -> bytearray:
        given_out.append(bytearray(nbytes))
        return given_out[-1]

    assert jobs.do(Method.DECODE, PNG, alloc) is given_out[0]


@pytest.mark.parametrize("method", [0, Method.HELLO, 99])
def test_an_unknown_method_is_refused(method: int) -> None:
    with pytest.raises(jobs.Refused, match="none of this demo's"):
        jobs.do(method, b"", bytearray)


def test_a_refusal_keeps_nothing_of_the_input() -> None:
    """A plugin lets go of its input before it answers, and the garbage collector is not asked."""

    def refuse(payload: bytearray) -> str:
        try:
            jobs.do(Method.DECODE, memoryview(payload), bytearray)
        except jobs.Refused as refusal:
            return str(refusal)
        raise AssertionError("not refused")

    payload = bytearray(PNG[:-20])
    gc.disable()
    try:
        assert "ends within" in refuse(payload)
        payload.append(0)  # raises BufferError while a view is left
    finally:
        gc.enable()


def test_run_here_is_every_step() -> None:
    raster = png.decode(PNG, bytearray)
    digests = (hashlib.sha256(raster).hexdigest(), hashlib.sha256(PNG).hexdigest())
    assert jobs.run_here(Kind.IMAGE, PNG) == Outcome(Status.DONE, len(PNG), digests)
    small = hashlib.sha256(b"a{}").hexdigest()
    assert jobs.run_here(Kind.CSS, b"a { }") == Outcome(Status.DONE, 3, (small,))


def test_run_here_refuses_as_a_plugin_does() -> None:
    outcome = jobs.run_here(Kind.IMAGE, b"GIF89a")
    reason = b"not a PNG: the signature is missing"
    assert outcome == Outcome(Status.REFUSED, len(reason), (hashlib.sha256(reason).hexdigest(),))


def test_run_here_notices_pixels_that_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def bad_encode(raster: bytes) -> bytes:
        damaged = bytearray(raster)
        damaged[-1] ^= 1
        return real(bytes(damaged))

    real = png.encode
    monkeypatch.setattr(png, "encode", bad_encode)
    with pytest.raises(ValueError, match="pixels are not the same"):
        jobs.run_here(Kind.IMAGE, PNG)


# -- whom to kill --------------------------------------------------------------------------------


def task(kind: Kind, size: int) -> Task:
    return Task.of(Source(Path(f"{kind.label}-{size}"), kind, size))


def test_the_first_victim_is_at_its_largest_work() -> None:
    tasks = [task(Kind.TEXT, 10) for _ in range(20)] + [
        task(Kind.CSS, n) for n in range(1000, 1010)
    ]
    plan = KillPlan(tasks, 1)
    styles = tasks[20:]
    assert not any(plan.now(one, tasks[:20]) for one in tasks[:20])
    assert not plan.now(styles[0], styles)
    assert plan.now(styles[-1], styles)
    plan.done += 1
    assert not plan.now(styles[-1], styles)


def test_an_image_is_killed_when_the_plugin_has_its_pixels() -> None:
    tasks = [task(Kind.IMAGE, n) for n in range(100, 110)]
    plan = KillPlan(tasks, 1)
    assert not plan.now(tasks[-1], tasks)
    tasks[-1].method = Method.ENCODE
    assert plan.now(tasks[-1], tasks)


def test_if_the_large_ones_prove_broken_one_of_the_last_will_do() -> None:
    tasks = [task(Kind.IMAGE, n) for n in range(100, 110)]
    plan = KillPlan(tasks, 1)
    assert not plan.now(tasks[4], tasks[:5])
    assert plan.now(tasks[2], tasks[:3])


@given(st.integers(1, 6), st.integers(0, 1000))
def test_all_kills_come_to_pass(wanted: int, seed: int) -> None:
    """Even when nothing has to be done twice, if there is enough to do at all."""
    tasks = [task(Kind.TEXT, n) for n in range(10)]
    plan = KillPlan(tasks, wanted, seed)
    while tasks and plan.done < wanted:
        if plan.now(tasks[-1], tasks):
            plan.done += 1  # and the job is done again
        else:
            tasks.pop()
    assert plan.done == wanted


@pytest.mark.parametrize(("count", "wanted"), [(0, 1), (5, 0)])
def test_nobody_is_killed_for_nothing(count: int, wanted: int) -> None:
    tasks = [task(Kind.TEXT, n) for n in range(count)]
    plan = KillPlan(tasks, wanted)
    assert plan.wanted == 0
    assert not any(plan.now(one, tasks) for one in tasks)
