"""``python -m examples.site``: build, serve or measure a site."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from examples.site.bench import compare_modes
from examples.site.build import Report, Settings, build
from examples.site.compare import differences
from examples.site.executors import MODES, Executor, open_executor
from examples.site.output import OutputRefused
from examples.site.pictures import make_pictures
from examples.site.progress import Progress
from examples.site.serve import Builds, serving, watch

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 done; 1 a file failed or outputs differ; 2 it could not begin."""
    options = _parse(argv)
    progress = Progress(sys.stderr, quiet=options.quiet)
    try:
        with _sigterm_as_interrupt():
            return int(options.run(options, progress))
    except (OutputRefused, NotADirectoryError, FileNotFoundError) as error:
        progress.say(f"site: {error}")
        return USAGE
    except KeyboardInterrupt:
        progress.say("site: interrupted; the next build goes on from here")
        return INTERRUPTED


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.site",
        description="A site from a folder of Markdown, CSS, images and fonts.",
        epilog="example: python -m examples.site build docs build/site",
    )
    parser.add_argument("--quiet", action="store_true", help="only what goes wrong")
    commands = parser.add_subparsers(required=True, metavar="build|serve|bench")

    one = commands.add_parser("build", help="build SRC into OUT, as far as it has changed")
    one.set_defaults(run=_build)
    _add_site(one)
    one.add_argument("out", type=Path, metavar="OUT", help="the folder to build")
    one.add_argument(
        "--chaos", action="store_true", help="kill plugins at random meanwhile (mode hub)"
    )
    one.add_argument(
        "--compare", action="store_true", help="build in all modes and compare byte for byte"
    )

    one = commands.add_parser("serve", help="build, serve over HTTP, and again on each change")
    one.set_defaults(run=_serve, compare=False)
    _add_site(one)
    one.add_argument("out", type=Path, nargs="?", metavar="OUT", help="default: a temporary one")
    one.add_argument("--port", type=int, default=8000, help="0: any (default %(default)s)")

    one = commands.add_parser("bench", help="CPU time of pool and hub beyond plain calls")
    one.set_defaults(run=_bench)
    one.add_argument("pictures", type=Path, nargs="?", help="a folder; default: made from a seed")
    one.add_argument("--images", type=_positive, default=50, help="(default %(default)s)")
    one.add_argument("--megapixels", type=float, default=3.1, help="each (default %(default)s)")
    one.add_argument("--rounds", type=_positive, default=5, help="(default %(default)s)")
    one.add_argument("--replicas", type=_positive, default=1, help="(default %(default)s)")
    one.add_argument("--quick", action="store_true", help="4 small images, one round")
    one.add_argument("--json", action="store_true", help="all figures as JSON")
    return parser.parse_args(argv)


def _add_site(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", type=Path, metavar="SRC", help="the folder of sources")
    parser.add_argument("--mode", choices=MODES, default=MODES[0], help="(default %(default)s)")
    parser.add_argument(
        "--replicas", type=_positive, default=2, help="processes for heavy work (default 2)"
    )
    parser.add_argument("--title", help="of the site; default: the folder's name")
    parser.add_argument(
        "--widths",
        type=lambda text: tuple(sorted({_positive(one) for one in text.split(",")})),
        default=Settings.widths,
        help=f"of the images, in pixels (default {','.join(map(str, Settings.widths))})",
    )
    parser.add_argument("--json", action="store_true", help="tell what was done as JSON")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _settings(options: argparse.Namespace) -> Settings:
    title = options.title or options.src.resolve().name
    return Settings(title, widths=options.widths)


def _build(options: argparse.Namespace, progress: Progress) -> int:
    if options.chaos and options.mode != "hub":
        progress.say(f"site: --chaos needs --mode hub: {options.mode} does not survive it")
        return USAGE
    settings = _settings(options)
    with _opened(options, progress, chaos=options.chaos) as executor:
        report = build(options.src, options.out, executor, settings, progress)
    progress.end()
    unlike: list[str] = []
    if options.compare:
        for mode in MODES:
            if mode != options.mode:
                unlike += _compared(options, mode, settings, progress)
    _tell(report, unlike, options, progress)
    return FAILED if report.failed or unlike else OK


def _compared(
    options: argparse.Namespace, mode: str, settings: Settings, progress: Progress
) -> list[str]:
    with tempfile.TemporaryDirectory(prefix=f"site-{mode}-") as folder:
        out = Path(folder, "site")
        with open_executor(mode, options.replicas) as executor:
            build(options.src, out, executor, settings, progress)
        progress.end()
        return [f"{options.mode} and {mode}: {line}" for line in differences(options.out, out)]


def _tell(
    report: Report, unlike: list[str], options: argparse.Namespace, progress: Progress
) -> None:
    for link in report.dangling:
        progress.say(f"site: {link} is not there")
    for line in unlike:
        progress.say(f"site: {line}")
    if options.json:
        print(json.dumps({**vars(report), "differences": unlike, **progress.counts}))
    elif not options.quiet:
        print(
            f"{len(report.built)} built, {report.unchanged} unchanged, {len(report.failed)} failed,"
            f" {len(report.removed)} removed in {report.seconds:.1f} s: {options.out}"
            + "".join(f", {number} {what}" for what, number in progress.counts.items())
            + (", the same in every mode" if options.compare and not unlike else "")
        )


def _serve(options: argparse.Namespace, progress: Progress) -> int:
    settings = _settings(options)
    with contextlib.ExitStack() as stack:
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="site-")))
        executor = stack.enter_context(_opened(options, progress))
        builds = Builds()

        def rebuild() -> None:
            report = build(options.src, out, executor, settings, progress)
            progress.end()
            builds.done()
            options.out = out
            _tell(report, [], options, progress)
            sys.stdout.flush()

        rebuild()
        address = stack.enter_context(serving(out, builds, options.port))
        print(f"serving {options.src} at {address} (Ctrl-C ends it)", flush=True)
        watch(options.src, rebuild, threading.Event())
    return OK


def _bench(options: argparse.Namespace, progress: Progress) -> int:
    if options.quick:
        options.images, options.megapixels, options.rounds = 4, 0.3, 1
    with tempfile.TemporaryDirectory(prefix="site-bench-") as folder:
        pictures = options.pictures
        if pictures is None:
            pictures = Path(folder, "pictures")
            make_pictures(pictures, options.images, options.megapixels)
        measured = compare_modes(
            pictures,
            Path(folder),
            rounds=options.rounds,
            replicas=options.replicas,
            settings=Settings("bench"),
        )
    if options.json:
        print(json.dumps(measured.as_dict()))
    else:
        print("\n".join(measured.lines()))
    return FAILED if measured.differences else OK


@contextlib.contextmanager
def _opened(
    options: argparse.Namespace, progress: Progress, *, chaos: bool = False
) -> Iterator[Executor]:
    killed = (lambda: progress.count("plugins killed")) if chaos else None
    with open_executor(options.mode, options.replicas, killed) as executor:
        yield executor


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Ended by SIGTERM as by Ctrl-C: processes and temporary folders go first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main())
