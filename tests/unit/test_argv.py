"""The plugin's command line: both forms, foreign arguments, and what is said of wrong ones."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmhub import NotAttachedError
from shmhub._argv import parse_plugin_argv, plugin_argv

GOOD = ["--hub-path=/dev/shm/hub", "--peer-id=3", "--doorbell-fd=7"]


def test_what_a_host_writes_is_read() -> None:
    written = plugin_argv(hub_path="/dev/shm/a hub=1", peer_id=3, doorbell_fd=7)
    assert written == ["--hub-path=/dev/shm/a hub=1", "--peer-id=3", "--doorbell-fd=7"]
    assert parse_plugin_argv(written) == ("/dev/shm/a hub=1", 3, 7)


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    st.integers(1, 63),
    st.integers(0, 2**31 - 1),
)
def test_any_path_survives(path: str, peer_id: int, fd: int) -> None:
    arguments = (path, peer_id, fd)
    written = plugin_argv(hub_path=path, peer_id=peer_id, doorbell_fd=fd)
    assert parse_plugin_argv(["program", *written, "more"]) == arguments


def test_two_words_each() -> None:
    argv = ["--hub-path", "/dev/shm/hub", "--peer-id", "3", "--doorbell-fd", "7"]
    assert parse_plugin_argv(argv) == ("/dev/shm/hub", 3, 7)


def test_foreign_arguments_are_left_alone() -> None:
    argv = ["-v", "--hub-pathology=x", "--", "--peer-id=2", "file", *GOOD, "--peer", "9"]
    assert parse_plugin_argv(argv) == ("/dev/shm/hub", 3, 7)


def test_the_last_of_several_counts() -> None:
    assert parse_plugin_argv([*GOOD, "--peer-id=5"]).peer_id == 5


def test_the_programs_own_arguments_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["--peer-id=1", *GOOD])
    assert parse_plugin_argv() == ("/dev/shm/hub", 3, 7)


@pytest.mark.parametrize("missing", range(3))
def test_a_missing_one_is_named(missing: int) -> None:
    given_ones = [text for index, text in enumerate(GOOD) if index != missing]
    option = GOOD[missing].partition("=")[0]
    with pytest.raises(NotAttachedError) as caught:
        parse_plugin_argv(given_ones)
    assert f"{option} missing on the command line" in str(caught.value)
    assert given_ones[0] in str(caught.value)


def test_none_at_all_says_how_a_plugin_is_started() -> None:
    with pytest.raises(NotAttachedError, match=r"none of the hub's arguments.*started by its host"):
        parse_plugin_argv([])


@pytest.mark.parametrize("option", ["--hub-path", "--peer-id", "--doorbell-fd"])
def test_a_missing_value_is_named(option: str) -> None:
    others = [text for text in GOOD if not text.startswith(option)]
    with pytest.raises(NotAttachedError, match=f"{option} has no value.*last word"):
        parse_plugin_argv([*others, option])
    with pytest.raises(NotAttachedError, match=f"{option} has no value.*follows it"):
        parse_plugin_argv([option, *others])


@pytest.mark.parametrize(
    "text", ["", "x", "0", "-1", "64", "3.0", "1_0", " 3", "３", "0x3", "9" * 5000]
)
def test_a_wrong_peer_id_is_refused_with_its_range(text: str) -> None:
    with pytest.raises(NotAttachedError, match="--peer-id must be a number from 1 to 63"):
        parse_plugin_argv([*GOOD, f"--peer-id={text}"])


@pytest.mark.parametrize("text", ["", "x", "-1", "2147483648", "7 "])
def test_a_wrong_doorbell_is_refused_with_its_range(text: str) -> None:
    with pytest.raises(NotAttachedError, match="--doorbell-fd must be a number from 0 to"):
        parse_plugin_argv([*GOOD, f"--doorbell-fd={text}"])


@pytest.mark.parametrize("text", ["", "a\0b"])
def test_a_wrong_path_is_refused(text: str) -> None:
    with pytest.raises(NotAttachedError, match="--hub-path must be the path of a hub"):
        parse_plugin_argv([*GOOD, f"--hub-path={text}"])
