"""Which files the demo takes, and those that it makes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmhub.demo import css, files, jobs, png
from shmhub.demo.jobs import HUB_CLASSES, Kind


def names(found: files.Found) -> set[str]:
    return {source.path.name for source in found.sources}


def reasons(found: files.Found) -> dict[str, str]:
    return {path.name: reason for path, reason in found.skipped}


def test_kinds_go_by_suffix(tmp_path: Path) -> None:
    for name in ("a.css", "b.PNG", "c.py", "d.txt", "e.exe", "f"):
        (tmp_path / name).write_bytes(b"x")
    found = files.find(tmp_path)
    kinds = {source.path.name: source.kind for source in found.sources}
    assert kinds == {"a.css": Kind.CSS, "b.PNG": Kind.IMAGE, "c.py": Kind.TEXT, "d.txt": Kind.TEXT}


def test_folders_below_are_searched_but_not_hidden_ones(tmp_path: Path) -> None:
    for folder in ("x/y", ".git", "__pycache__", "lib/site-packages/z"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{folder.replace('/', '-')}.txt").touch()
    assert names(files.find(tmp_path)) == {"x-y.txt"}


def test_what_cannot_be_worked_on_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(files.MAX_FILE + 1)
    found = files.find(tmp_path)
    assert names(found) == {"good.txt"}
    told = reasons(found)
    assert told.keys() == {"gone.txt", "device.txt", "pipe.txt", "huge.txt"}
    assert told["gone.txt"] == "No such file or directory"
    assert told["pipe.txt"] == told["device.txt"] == "not a regular file"
    assert "more than" in told["huge.txt"]


def test_a_file_of_exactly_the_limit_is_taken(tmp_path: Path) -> None:
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(files.MAX_FILE)
    assert names(files.find(tmp_path)) == {"large.txt"}


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.find(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        files.find(tmp_path / "file")


def test_the_number_is_bounded_and_all_kinds_and_sizes_stay(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number:03}.txt").write_bytes(bytes(number))
    for number in range(3):
        (tmp_path / f"{number}.css").write_bytes(bytes(number))
    found = files.find(tmp_path, limit=20)
    assert len(found.sources) == 20
    assert found.left_out == 83
    sizes = [source.size for source in found.sources if source.kind == Kind.TEXT]
    assert len(sizes) == 17
    assert min(sizes) == 0
    assert max(sizes) == 99
    assert len(set(sizes)) == 17


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_any_limit_is_kept(tmp_path: Path, limit: int) -> None:
    for number in range(5):
        for suffix in ("txt", "css", "png"):
            (tmp_path / f"{number}.{suffix}").touch()
    found = files.find(tmp_path, limit)
    assert len(found.sources) == limit
    assert found.left_out == 15 - limit


def test_a_png_tells_its_raster_and_a_broken_one_has_none(tmp_path: Path) -> None:
    header = png.Header(30, 20, 8, 6)
    (tmp_path / "good.png").write_bytes(png.encode(png.make_raster(header, bytes(2400))))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8))
    huge = png.Header(60000, 60000, 8, 2)
    (tmp_path / "huge.png").write_bytes(png.write(huge, b""))
    rasters = {source.path.name: source.raster for source in files.find(tmp_path).sources}
    assert rasters == {
        "good.png": png.raster_size(header, 0),
        "broken.png": 0,
        "huge.png": 0,
    }


def test_the_installation_has_files() -> None:
    found = files.find(files.installation(), limit=50)
    assert len(found.sources) == 50
    assert {source.kind for source in found.sources} >= {Kind.TEXT}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[files.Source]:
    return files.generate(tmp_path_factory.mktemp("made"))


def test_what_is_made_fills_every_size_class(made: list[files.Source]) -> None:
    sizes = [size for source in made for size in (source.size, source.raster)]
    smaller = jobs.INLINE_MAX
    for slot_size, _, _ in HUB_CLASSES:
        assert any(smaller < size <= slot_size for size in sizes), slot_size
        smaller = slot_size
    assert max(sizes) > 16 << 20


def test_what_is_made_is_sound(made: list[files.Source]) -> None:
    for source in made:
        data = source.path.read_bytes()
        assert len(data) == source.size
        if source.kind == Kind.CSS:
            small = css.minify(data)
            assert len(small) < len(data) * 0.8
            assert css.minify(small) == small
        elif source.raster < 1 << 20:
            parsed = png.parse(data)
            raster = png.decode(data, bytearray)
            assert len(raster) == source.raster + len(parsed.before) + len(parsed.after)
            assert raster.count(0) < len(raster) // 2  # there is something to see


def test_every_colour_type_and_depth_is_made_plain_and_interlaced(made: list[files.Source]) -> None:
    headers = {png.parse(s.path.read_bytes()).header for s in made if s.kind == Kind.IMAGE}
    kinds = {(one.colour, one.depth, one.interlace) for one in headers}
    expected = {(c, d, i) for c, ds in png.DEPTHS.items() for d in ds for i in (0, 1)}
    assert kinds >= expected


def test_the_same_seed_makes_the_same_files(tmp_path: Path, made: list[files.Source]) -> None:
    again = files.generate(tmp_path)
    assert [s.path.read_bytes() for s in again] == [s.path.read_bytes() for s in made]
