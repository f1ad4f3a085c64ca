"""The pipeline: from a folder of sources to a site, by whatever executor it is given.

It goes in steps, because some outputs depend on all of an earlier kind: pages need to know how
large the images came out, fonts which characters all pages show. Within a step files are
independent of each other; each file is built by one thread, which calls one plugin function after
the other. A file that cannot be built is reported, and the others go on.
"""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import unquote

from examples.site.executors import Executor, reason
from examples.site.output import Built, Output
from examples.site.places import OWN, SHEET, image_place, kind_of, page_place
from examples.site.sources import Source, digest, find
from examples.site.template import Frame, Page, characters, title_of

__all__ = ["Report", "Settings", "Watcher", "build"]

_FORMAT: Final = 1  # to be raised when the same sources become something else
_THEME: Final = Path(__file__).parent / "theme" / "site.css"
_INDEX: Final = f"{OWN}/index"


@dataclass(frozen=True)
class Settings:
    """What decides, beside the sources, what comes out."""

    title: str
    widths: Sequence[int] = (480, 960, 1600)
    quality: int = 80
    effort: int = 4


@dataclass
class Report:
    """What a build did; places are those of sources, except in `removed` and `written`."""

    built: list[str] = field(default_factory=list)
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    dangling: list[str] = field(default_factory=list)  # "page: what it refers to"
    written: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Watcher(Protocol):
    """Is told how it goes, by several threads."""

    def begin(self, kind: str, total: int) -> None: ...

    def step(self, kind: str, place: str, outcome: str) -> None:
        """``outcome`` is "built", "unchanged" or why it failed."""


def build(
    folder: Path, out: Path, executor: Executor, settings: Settings, watcher: Watcher
) -> Report:
    """Builds ``out`` from ``folder``; only what changed since the last time.

    ``NotADirectoryError``, ``OutputRefused`` if it cannot begin.
    """
    began = time.monotonic()
    sources, unreadable = find(folder)
    work = _Work(Output(out), executor, settings, watcher)
    for place, why in unreadable.items():
        work.fail(kind_of(place), place, why)
    work.run(_without_collisions(sources, work))
    report = work.report
    report.removed = work.output.finish()
    report.written = work.output.written
    report.built.sort()
    report.seconds = time.monotonic() - began
    return report


def _without_collisions(sources: Iterable[Source], work: _Work) -> list[Source]:
    """Those that become something of their own; the first of two that would be the same wins."""
    sources = list(sources)
    images = {source.place for source in sources if source.kind == "image"}
    taken: dict[str, str] = {}
    kept = []
    for source in sources:
        place = page_place(source.place) if source.kind == "page" else source.place
        made = re.fullmatch(r"(.+)\.\d+\.webp", place)
        first = made[1] if made and made[1] in images else taken.setdefault(place, source.place)
        if first == source.place:
            kept.append(source)
        else:
            work.fail(source.kind, source.place, f"lies where what {first} becomes has to go")
    return kept


@dataclass
class _Job:
    """One source to be built: its name in the record, all it depends on, and how."""

    place: str
    key: str
    make: Callable[[], tuple[dict[str, bytes], dict[str, Any]]]


class _Work:
    """One build at work."""

    def __init__(
        self, output: Output, executor: Executor, settings: Settings, watcher: Watcher
    ) -> None:
        self.output = output
        self.report = Report()
        self._call = executor.call
        self._lanes = executor.lanes
        self._settings = settings
        self._watcher = watcher

    def fail(self, kind: str, place: str, why: str) -> None:
        self._note(place, why)
        self._watcher.step(kind, place, why)

    def run(self, sources: Sequence[Source]) -> None:
        of = {kind: [one for one in sources if one.kind == kind] for kind in _KINDS}
        self._step("asset", [self._asset(source) for source in of["asset"]])
        images = self._step("image", [self._image(source) for source in of["image"]])
        styles = self._step("style", [self._theme(), *map(self._style, of["style"])])
        pages = self._step("page", self._pages(of["page"], of["style"], images))
        shown = {one for built in [*styles, *pages] for one in built.facts["characters"]}
        characters = "".join(sorted(shown))
        self._step("font", [self._font(source, characters) for source in of["font"]])
        self._find_dangling(pages, sources)

    def _step(self, kind: str, jobs: Sequence[_Job]) -> list[Built]:
        """Builds what is not as it was; what came out, without what failed."""
        self._watcher.begin(kind, len(jobs))
        if self._lanes == 1 or len(jobs) < 2:
            outcomes = [self._attempt(kind, job) for job in jobs]
        else:
            with ThreadPoolExecutor(self._lanes, thread_name_prefix="site") as threads:
                waiting = [threads.submit(self._attempt, kind, job) for job in jobs]
                try:
                    outcomes = [one.result() for one in waiting]
                except BaseException:
                    threads.shutdown(wait=False, cancel_futures=True)
                    raise
        for job, (_, outcome) in zip(jobs, outcomes, strict=True):
            self._note(job.place, outcome)
        return [built for built, _ in outcomes if built is not None]

    def _attempt(self, kind: str, job: _Job) -> tuple[Built | None, str]:
        """What came out, and in a word (of `Watcher.step`) how it went."""
        built, outcome = self.output.fresh(job.place, job.key), _UNCHANGED
        if built is None:
            try:
                outputs, facts = job.make()
                built, outcome = self.output.write(job.place, job.key, outputs, facts), _BUILT
            except Exception as error:
                outcome = reason(error)
        self._watcher.step(kind, job.place, outcome)
        return built, outcome

    def _note(self, place: str, outcome: str) -> None:
        if outcome == _BUILT:
            self.report.built.append(place)
        elif outcome == _UNCHANGED:
            self.report.unchanged += 1
        else:
            self.report.failed[place] = outcome

    # ---- what becomes of each kind ---------------------------------------------------------

    def _asset(self, source: Source) -> _Job:
        return _Job(
            source.place,
            digest(_FORMAT, source.digest),
            lambda: ({source.place: source.path.read_bytes()}, {}),
        )

    def _image(self, source: Source) -> _Job:
        """Three calls a width on raw pixels. The original goes along, for those who link to it."""
        widths, quality, effort = (
            self._settings.widths,
            self._settings.quality,
            self._settings.effort,
        )

        def make() -> tuple[dict[str, bytes], dict[str, Any]]:
            data = source.path.read_bytes()
            pixels = self._call("image", "decode", data)
            outputs, sizes = {source.place: data}, []
            for width in sorted({min(width, pixels.shape[1]) for width in widths}):
                smaller = self._call("image", "resize", pixels, width)
                place = image_place(source.place, width)
                outputs[place] = self._call("image", "encode", smaller, quality, effort)
                sizes.append((place, width, smaller.shape[0]))
            return outputs, {"place": source.place, "sizes": sizes}

        return _Job(source.place, digest(_FORMAT, source.digest, widths, quality, effort), make)

    def _style(self, source: Source) -> _Job:
        def make() -> tuple[dict[str, bytes], dict[str, Any]]:
            css = _text(source)
            minified = self._call("style", "minify", css)
            shown = self._call("style", "characters", css)
            return {source.place: minified.encode()}, {"characters": shown}

        return _Job(source.place, digest(_FORMAT, source.digest), make)

    def _theme(self) -> _Job:
        theme = _THEME.read_text("utf-8")

        def make() -> tuple[dict[str, bytes], dict[str, Any]]:
            css = f"{theme}\n{self._call('text', 'sheet')}"
            shown = self._call("style", "characters", css)
            return {SHEET: self._call("style", "minify", css).encode()}, {"characters": shown}

        return _Job(SHEET, digest(_FORMAT, theme), make)

    def _pages(
        self, sources: Sequence[Source], styles: Sequence[Source], images: Sequence[Built]
    ) -> list[_Job]:
        """All pages, and a first one that lists them if there is none."""
        texts: dict[str, str] = {}
        for source in sources:
            try:
                texts[source.place] = _text(source)
            except (OSError, ValueError) as error:
                self.fail("page", source.place, reason(error))
        pages = [
            Page(page_place(source.place), title_of(texts[source.place], source.place))
            for source in sources
            if source.place in texts
        ]
        pages.sort(key=lambda page: (posixpath.dirname(page.place), page.place))
        top = [SHEET, *(style.place for style in styles if "/" not in style.place)]
        frame = Frame(self._settings.title, pages, top)
        sizes = {built.facts["place"]: built.facts["sizes"] for built in images}
        jobs = [
            self._page(source, texts[source.place], frame, sizes)
            for source in sources
            if source.place in texts
        ]
        if all(page.place != "index.html" for page in pages):
            jobs.append(self._index(frame))
        return jobs

    def _page(self, source: Source, text: str, frame: Frame, sizes: dict[str, Any]) -> _Job:
        place = page_place(source.place)
        page = Page(place, title_of(text, source.place))
        # A name that occurs for another reason costs a needless build, no more.
        plain = unquote(text)
        shown = {image: sizes[image] for image in sizes if posixpath.basename(image) in plain}

        def make() -> tuple[dict[str, bytes], dict[str, Any]]:
            body = self._call("text", "render", text, source.place, shown)
            whole = frame.page(page, body)
            facts = {"characters": characters(whole), "links": body["links"]}
            return {place: whole.encode()}, facts

        return _Job(source.place, digest(_FORMAT, source.digest, frame, shown), make)

    def _index(self, frame: Frame) -> _Job:
        def make() -> tuple[dict[str, bytes], dict[str, Any]]:
            whole = frame.page(Page("index.html", frame.title), frame.index())
            return {"index.html": whole.encode()}, {"characters": characters(whole), "links": []}

        return _Job(_INDEX, digest(_FORMAT, frame), make)

    def _font(self, source: Source, shown: str) -> _Job:
        def make() -> tuple[dict[str, bytes], dict[str, Any]]:
            whole = self._call("font", "unpack", source.path.read_bytes())
            smaller = self._call("font", "subset", whole, shown)
            return {source.place: self._call("font", "pack", smaller)}, {}

        return _Job(source.place, digest(_FORMAT, source.digest, shown), make)

    def _find_dangling(self, pages: Sequence[Built], sources: Sequence[Source]) -> None:
        there = {source.place for source in sources} | self.output.places()
        folders = {posixpath.dirname(place) for place in there} | {"."}
        for built in pages:
            for link in built.facts["links"]:
                if link not in there and link not in folders:
                    page = next(iter(built.outputs))
                    self.report.dangling.append(f"{page}: {link}")
        self.report.dangling.sort()


_BUILT, _UNCHANGED = "built", "unchanged"
_KINDS: Final = ("asset", "image", "style", "page", "font")


def _text(source: Source) -> str:
    return source.path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
