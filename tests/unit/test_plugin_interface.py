"""Interfaces and limits: what is compared and checked before anything is started."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from typing import Any, Protocol

import pytest

import shmhub
from shmhub.plugin._interface import check_interface, parameters_of
from shmhub.plugin._limits import plain_limits
from shmhub.plugin._names import HANDLE_NAMES, check_method_name

# mypy: disable-error-code="empty-body"


def offers(**functions: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """As a hello says it, after its way through a codec: lists, not tuples."""
    return {
        name: {
            "name": name,
            "signature": "(...)",
            "parameters": [list(one) for one in parameters_of(function) or []],
        }
        for name, function in functions.items()
    }


class Image(Protocol):
    def resize(self, png: bytes, *, width: int, fast: bool = False) -> bytes: ...
    def tiles(self, png: bytes) -> Any: ...
    def _private(self) -> None: ...


def good_resize(png: bytes, *, width: int, fast: bool = True) -> bytes: ...
def good_tiles(png: bytes) -> Any: ...


def test_what_fits_is_accepted() -> None:
    check_interface("image", Image, offers(resize=good_resize, tiles=good_tiles))
    check_interface("image", Image, offers(resize=good_resize, tiles=lambda *a, **k: 0))

    def generous(png: bytes, width: int = 3, quality: int = 80, **more: Any) -> bytes: ...

    check_interface("image", Image, offers(resize=generous, tiles=good_tiles))


def test_all_differences_are_told_at_once() -> None:
    with pytest.raises(shmhub.InterfaceError) as failure:
        check_interface("image", Image, offers(resize=lambda data, *, width: 0))
    text = str(failure.value)
    assert "tiles: the plugin has no such method" in text
    assert "'png' is 'data' there" in text
    assert "'fast' is not taken by name" in text


@pytest.mark.parametrize(
    ("theirs", "what"),
    [
        (lambda png, *, width, fast: 0, "'fast' has no default there"),
        (lambda png, extra, *, width, fast=0: 0, "'extra' is needed there"),
        (lambda *, png, width, fast=0: 0, "'png' is not taken at place 1"),
        (lambda: 0, "'width' is not taken by name"),
        (lambda png, /, *, width, fast=0: 0, "'png' is not taken by name"),
    ],
)
def test_a_difference_is_found(theirs: Callable[..., Any], what: str) -> None:
    with pytest.raises(shmhub.InterfaceError) as failure:
        check_interface("image", Image, offers(resize=theirs, tiles=good_tiles))
    assert what in str(failure.value)


def test_more_arguments_need_a_place_there() -> None:
    class Sum:
        def add(self, *numbers: int, **names: int) -> int: ...

    check_interface("sum", Sum, offers(add=lambda *n, **k: 0))
    with pytest.raises(shmhub.InterfaceError, match=r"\*numbers is not taken"):
        check_interface("sum", Sum, offers(add=lambda **k: 0))
    with pytest.raises(shmhub.InterfaceError, match=r"\*\*names is not taken"):
        check_interface("sum", Sum, offers(add=lambda *n: 0))


def test_inherited_methods_count_and_a_method_without_signature_is_let_pass() -> None:
    class More(Image, Protocol):
        def crop(self) -> None: ...

    with pytest.raises(shmhub.InterfaceError, match="crop"):
        check_interface("image", More, offers(resize=good_resize, tiles=good_tiles))
    unknown = {**offers(resize=good_resize, tiles=good_tiles), "crop": {"parameters": None}}
    check_interface("image", More, unknown)


def test_names_that_cannot_be_called_are_refused() -> None:
    def check(name: str, *, chosen: bool = False) -> None:
        check_method_name(name, chosen=chosen, what="@plugin.method", taken=HANDLE_NAMES)

    check("resize")
    check("stop", chosen=True)
    for name in ("stop", "_private", "not a name", "<lambda>"):
        with pytest.raises(ValueError, match="name="):
            check(name)
    with pytest.raises(ValueError, match="underscore"):
        check("_private", chosen=True)


def test_limits_become_plain_numbers() -> None:
    assert plain_limits() == {}
    assert plain_limits(nice=5, cpus={min(os.sched_getaffinity(0))}) == {
        "nice": 5,
        "cpus": [min(os.sched_getaffinity(0))],
    }
    number = resource.RLIMIT_NOFILE
    expected = {"rlimits": [(number, 64, 64)]}
    assert plain_limits({"nofile": 64}) == plain_limits({"RLIMIT_NOFILE": (64, 64)}) == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rlimits": {"memory": 1}}, "no limit 'memory'.*data"),
        ({"rlimits": {"data": -2}}, "'data'"),
        ({"rlimits": {"data": (1, "2")}}, "'data'"),
        ({"nice": 20}, "-20 to 19"),
        ({"cpus": []}, "cpus"),
        ({"cpus": [99999]}, "99999"),
    ],
)
def test_wrong_limits_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain_limits(**wrong)
