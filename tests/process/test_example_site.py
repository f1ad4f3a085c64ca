"""The site example: the same site in every mode, also while its plugins are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.environment import ROOT

for _needed in ("PIL", "brotli", "fontTools", "markdown_it", "numpy", "pygments", "rcssmin"):
    pytest.importorskip(_needed, reason="extra examples")

from PIL import Image  # noqa: E402

from examples.site.__main__ import main  # noqa: E402 - where its libraries are missing it cannot be
from examples.site.compare import differences  # noqa: E402
from examples.site.executors import MODES  # noqa: E402
from tests.support import small_site  # noqa: E402

LIMIT = 120.0
pytestmark = pytest.mark.time_limit(2 * LIMIT)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return small_site.write(tmp_path / "small")


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "examples.site", *map(str, args)]


def run(*args: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own: pools leave a helper process of multiprocessing's behind."""
    return subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)


def build(site: Path, out: Path, *options: str, mode: str = "serial") -> int:
    """In this process; the exit status."""
    widths = ["--widths", small_site.WIDTHS]
    return main(["build", str(site), str(out), "--mode", mode, *widths, "--json", *options])


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return json.loads(capsys.readouterr().out)


def places(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ---- what comes out ----------------------------------------------------------------------------


def test_all_modes_give_the_same_site_byte_for_byte(site: Path, tmp_path: Path) -> None:
    outs = {mode: tmp_path / mode for mode in MODES}
    for mode, out in outs.items():
        done = run("build", site, out, "--mode", mode, "--widths", small_site.WIDTHS)
        assert (done.returncode, places(out)) == (0, small_site.PLACES), done.stderr
    for mode in MODES:
        assert differences(outs["serial"], outs[mode]) == []


def test_compare_does_that_in_one_program(site: Path, tmp_path: Path) -> None:
    done = run("build", site, tmp_path / "out", "--compare", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["differences"] == []


def test_pages_have_highlighted_code_links_and_images_in_their_widths(
    site: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert build(site, out) == 0
    index, start = (out / "index.html").read_text(), (out / "guide/start.html").read_text()
    assert '<a href="guide/start.html#what-it-shows">guide</a>' in index
    assert '<h2 id="what-it-shows">' in start
    assert "<title>The guide · small</title>" in start
    assert '<span class="k">def</span>' in start
    assert "<s>2</s>" in start
    assert '<a href="../index.html">home</a>' in start
    wide = [f"../pictures/noise.jpg.{width}.webp {width}w" for width in (20, 40, 60)]
    assert f'srcset="{", ".join(wide)}"' in start
    assert 'width="48" height="30"' in index  # never wider than it is
    assert '<link rel="stylesheet" href="../style.css">' in start
    assert (out / "notes.txt").read_text() == "as it is\n"
    assert "comment" not in (out / "style.css").read_text()


def test_images_are_webp_at_three_widths_and_keep_their_alpha(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert build(site, out) == 0
    for width, height in ((20, 16), (40, 31), (60, 47)):
        with Image.open(out / f"pictures/noise.jpg.{width}.webp") as image:
            assert (image.format, image.mode, image.size) == ("WEBP", "RGB", (width, height))
    with Image.open(out / "pictures/clear.png.40.webp") as image:
        assert image.mode == "RGBA"


def test_fonts_keep_the_characters_that_the_site_shows_and_no_others(
    site: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert build(site, out) == 0
    kept = small_site.characters((out / "fonts/small.woff2").read_bytes())
    assert set("Small site It has two pages") <= kept
    assert "→" in kept  # it is in the style sheet only
    assert not kept & set("@Zα")
    assert (out / "fonts/small.woff2").stat().st_size < len(small_site.font())


# ---- incremental -------------------------------------------------------------------------------


def test_a_second_build_writes_nothing(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    build(site, out)
    before = {place: (out / place).stat().st_mtime_ns for place in places(out)}
    capsys.readouterr()
    assert build(site, out) == 0
    said = report(capsys)
    assert (said["built"], said["written"], said["removed"]) == ([], [], [])
    after = {place: (out / place).stat().st_mtime_ns for place in places(out)}
    del before[".site.json"], after[".site.json"]
    assert after == before


def test_a_change_touches_what_depends_on_it(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def written_after_change() -> object:
        capsys.readouterr()
        assert build(site, out) == 0
        whole = tmp_path / f"whole-{len(list(tmp_path.iterdir()))}"
        said = report(capsys)["written"]
        assert build(site, whole) == 0
        assert differences(whole, out) == []
        return said

    build(site, out)
    page = site / "guide/start.md"
    page.write_text(page.read_text() + "\nsite\n")
    assert written_after_change() == ["guide/start.html"]
    page.write_text(page.read_text() + "\n@\n")
    assert written_after_change() == ["fonts/small.woff2", "guide/start.html"]
    page.write_text(page.read_text().replace("`guide`", "tour"))  # a title is in each navigation
    assert written_after_change() == ["guide/start.html", "index.html"]
    (site / "style.css").write_text(small_site.STYLE.replace("ff0000", "00ff00"))
    assert written_after_change() == ["style.css"]
    same_size = Image.new("RGBA", (48, 30), (20, 130, 60, 100))
    same_size.save(site / "pictures/clear.png")
    made = [f"pictures/clear.png.{width}.webp" for width in (20, 40, 48)]
    assert written_after_change() == ["pictures/clear.png", *made]


def test_what_has_no_source_any_more_goes(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    build(site, out)
    (out / "mine.txt").write_text("not of the build")
    for path in ("guide/start.md", "pictures/noise.jpg"):
        (site / path).unlink()
    capsys.readouterr()
    assert build(site, out) == 0
    said = report(capsys)
    assert "guide/start.html" in said["removed"]  # type: ignore[operator]
    assert said["dangling"] == ["index.html: guide/start.md", "index.html: pictures/noise.jpg"]
    assert not (out / "guide").exists()
    assert (out / "mine.txt").exists()


def test_what_was_lost_or_damaged_is_built_again(site: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    build(site, whole)
    build(site, out)
    (out / "index.html").unlink()
    (out / "style.css").write_text("cut off")
    build(site, out)
    assert differences(whole, out) == []
    (out / ".site.json").write_text("{")
    build(site, out)
    assert differences(whole, out) == []


def test_an_interrupted_build_does_not_pass_for_what_it_set_out_from(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    build(site, whole)
    build(site, out)
    page = site / "guide/start.md"
    page.write_text(small_site.START.replace("42", "43"))  # no output changes its size
    from examples.site.output import Output

    def interrupt(self: Output) -> list[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Output, "finish", interrupt)
        assert build(site, out) == 130
    assert differences(whole, out) != []
    page.write_text(small_site.START)
    assert build(site, out) == 0
    assert differences(whole, out) == []


# ---- what can be wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_broken_file_is_named_and_the_others_are_built(
    site: Path, tmp_path: Path, mode: str
) -> None:
    (site / "pictures/broken.png").write_bytes(b"no picture at all")
    (site / "fonts/broken.woff2").write_bytes(b"no font at all")
    (site / "broken.css").write_text("a { b: c")
    (site / "broken.md").write_bytes(b"\xff\xfe\xfd")
    out = tmp_path / "out"
    done = run("build", site, out, "--mode", mode, "--widths", small_site.WIDTHS, "--json")
    assert done.returncode == 1
    failed = json.loads(done.stdout)["failed"]
    assert failed["pictures/broken.png"] == "ValueError: not an image of a known format"
    assert failed["fonts/broken.woff2"].startswith("TTLibError: ")
    assert failed["broken.css"] == "ValueError: 1 '{' without '}' at its end"
    assert failed["broken.md"].startswith("UnicodeDecodeError: ")
    assert len(failed) == 4
    for place in failed:
        assert f"{place}: {failed[place]}" in done.stderr
    assert places(out) == small_site.PLACES


def test_two_sources_of_one_output(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "index.md").write_text("# Another first page\n")
    (site / "pictures/noise.jpg.20.webp").write_bytes(b"in the way")
    assert build(site, tmp_path / "out") == 1
    assert report(capsys)["failed"] == {
        "index.md": "lies where what README.md becomes has to go",
        "pictures/noise.jpg.20.webp": "lies where what pictures/noise.jpg becomes has to go",
    }


def test_a_folder_of_other_things_is_not_built_into(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.tex").write_text("years of work")
    assert build(site, tmp_path / "precious") == 2
    assert "name a folder that is new or empty" in capsys.readouterr().err
    assert places(tmp_path / "precious") == {"thesis.tex"}
    assert build(tmp_path / "nowhere", tmp_path / "out") == 2
    assert build(site, site / "notes.txt") == 2


def test_the_output_may_lie_inside_the_sources(site: Path, tmp_path: Path) -> None:
    inside, outside = site / "public", tmp_path / "outside"
    for _ in range(2):
        assert build(site, inside) == 0
    assert build(site, outside, "--title", "small") == 0
    assert differences(inside, outside) == []


def test_links_do_not_lead_out_of_the_folder(site: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (site / "secret.txt").symlink_to(tmp_path / "secret.txt")
    assert build(site, tmp_path / "out") == 0
    assert not (tmp_path / "out/secret.txt").exists()


def test_chaos_changes_nothing_but_the_time_it_takes(site: Path, tmp_path: Path) -> None:
    for number in range(20):
        noise = random.Random(number).randbytes(300 * 200 * 3)
        Image.frombytes("RGB", (300, 200), noise).save(site / f"pictures/{number}.png")
    chaos, calm = tmp_path / "chaos", tmp_path / "calm"
    options = ("--widths", small_site.WIDTHS, "--json")
    done = run("build", site, chaos, *options, "--mode", "hub", "--chaos")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plugins killed"] >= 3
    assert build(site, calm) == 0
    assert differences(calm, chaos) == []


def test_a_hub_leaves_nothing_behind(leak_check: None, site: Path, tmp_path: Path) -> None:
    assert build(site, tmp_path / "out", mode="hub") == 0


def test_chaos_needs_plugins(site: Path, tmp_path: Path) -> None:
    assert build(site, tmp_path / "out", "--chaos", mode="serial") == 2


# ---- serve -------------------------------------------------------------------------------------


@pytest.fixture
def served(site: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address where ``site`` is served, by plugins."""
    with subprocess.Popen(
        command("serve", site, tmp_path / "served", "--port", 0, "--mode", MODES[0]),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            built, serving = process.stdout.readline(), process.stdout.readline()
            assert "serving" in serving, (built, serving)
            yield serving.split()[3]
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, said


def fetch(address: str) -> str:
    with urllib.request.urlopen(address, timeout=LIMIT) as answer:
        return answer.read().decode()


def test_serve_answers_and_reloads(site: Path, tmp_path: Path, served: str) -> None:
    page = fetch(served)
    assert "Small site" in page
    assert "EventSource" in page
    assert "EventSource" not in (tmp_path / "served/index.html").read_text()
    assert fetch(f"{served}guide/start.html?x=1").count("EventSource") == 1
    assert "stylesheet" not in fetch(f"{served}style.css")
    for missing in ("nowhere.html", "guide/", "../small/notes.txt", "%2e%2e/small/notes.txt"):
        with pytest.raises(urllib.error.HTTPError) as told:
            fetch(served + missing)
        told.value.close()
        assert told.value.code == 404
    with urllib.request.urlopen(f"{served}_site/events", timeout=LIMIT) as events:
        assert told_builds(events) == "1"
        part = site / ".README.part"
        part.write_text(small_site.README.replace("two", "three"))
        os.replace(part, site / "README.md")
        assert told_builds(events) == "2"
        assert "<em>three</em>" in fetch(served)


def told_builds(events: Sequence[bytes]) -> str:
    return next(line.split()[1].decode() for line in events if line.startswith(b"data:"))


# ---- bench and documentation -------------------------------------------------------------------


def test_bench_measures_every_mode(tmp_path: Path) -> None:
    done = run("bench", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["identical"] is True
    assert said["pictures"] == 4
    assert all(said["median_cpu_seconds"][mode] > 0 for mode in MODES)


def test_the_documentation_is_a_site_without_a_dangling_link(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(ROOT / "docs", tmp_path / "out") == 0
    said = report(capsys)
    assert (said["failed"], said["dangling"]) == ({}, [])
    assert (tmp_path / "out/protocol.html").is_file()
