"""The demo from its command line to its exit status: find, run, compare, look round, tell."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from shmhub import (
    HubConfig,
    HubExistsError,
    HubHost,
    ShmhubError,
    SizeClass,
    UnsupportedPlatformError,
)
from shmhub.demo import files, jobs, report
from shmhub.demo.crew import DemoFailed
from shmhub.demo.jobs import HUB_CLASSES, MAX_BYTES
from shmhub.demo.killing import KillPlan
from shmhub.demo.leftovers import Holdings
from shmhub.demo.progress import Progress, printable
from shmhub.demo.runner import Runner
from shmhub.demo.tally import Tally, Task

__all__ = ["run"]

OK, FAILED, USAGE = 0, 1, 2
INTERRUPTED, TERMINATED = 130, 143


class _NothingToDo(Exception):
    """There are no files to work on; the message says where they were looked for."""


def run(argv: Sequence[str]) -> int:
    """The demo; its exit status."""
    options = _parse(argv)
    progress = Progress(sys.stderr)
    before = Holdings.now()
    tally = Tally()
    ours = [options.path] if options.path else []
    try:
        with _ended_by_sigterm(), contextlib.ExitStack() as stack:
            made_in = None
            if options.folder is None:
                made_in = stack.enter_context(tempfile.TemporaryDirectory(prefix="shmhub-demo-"))
                ours.append(made_in)
            tasks = _tasks(options, made_in, tally, progress)
            _work(options, tasks, tally, progress)
            _compare(tasks, tally, progress)
            if made_in is not None:
                _check_coverage(tally)
    except _NothingToDo as error:
        progress.say(f"demo: {error}")
        return USAGE
    except UnsupportedPlatformError as error:  # nothing was run, so there is nothing to tell
        progress.say(f"demo: {error}")
        return FAILED
    except HubExistsError as error:
        ours.remove(options.path)
        tally.problems.append(str(error))
    except (DemoFailed, ShmhubError, OSError) as error:
        tally.problems.append(str(error))
    except KeyboardInterrupt:
        progress.say("demo: interrupted")
        return INTERRUPTED
    except _Terminated:
        progress.say("demo: terminated")
        return TERMINATED
    progress.end()
    left_behind = Holdings.now().new_since(before)
    left_behind += [f"file {path}" for path in ours if os.path.lexists(path)]
    _tell(options, tally, left_behind)
    return FAILED if tally.problems or left_behind else OK


class _Terminated(BaseException):
    """SIGTERM: to be cleaned up after as after Ctrl-C."""


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Within it SIGTERM unwinds, so that plugins and files are not left to themselves."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are not ours to handle
        return

    def terminate(number: int, frame: object) -> NoReturn:
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m shmhub demo",
        description="Work on real files with three plugins over one hub, kill one in the middle "
        "with SIGKILL, and check every result.",
        epilog="example: python -m shmhub demo ~/site --kills 3",
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        metavar="DIR",
        help="work on the .css, .png and text files below it, which are only read; "
        "default: those of this Python installation, and larger ones made for the purpose",
    )
    parser.add_argument(
        "--files",
        type=_AtLeast(1),
        default=files.DEFAULT_LIMIT,
        metavar="N",
        help="files to take at most (default %(default)s)",
    )
    parser.add_argument(
        "--kills",
        type=_AtLeast(0),
        default=1,
        metavar="N",
        help="how many plugins to kill: the first at its heaviest work, the others at random "
        "(default %(default)s)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of that randomness")
    parser.add_argument(
        "--path", metavar="FILE", help="make a named hub there instead of an anonymous one"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser.parse_args(argv)


class _AtLeast:
    """An argparse type whose error message says the range."""

    def __init__(self, low: int) -> None:
        self.low = low

    def __call__(self, text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            self._refuse(text)
        if value < self.low:
            self._refuse(text)
        return value

    def _refuse(self, text: str) -> NoReturn:
        raise argparse.ArgumentTypeError(f"must be a number from {self.low} up, not {text!r}")


# -- the phases ----------------------------------------------------------------------------------


def _tasks(
    options: argparse.Namespace, made_in: str | None, tally: Tally, progress: Progress
) -> list[Task]:
    folder = files.installation() if options.folder is None else options.folder
    try:
        found = files.find(folder, options.files)
    except OSError as error:
        if options.folder is not None:
            raise _NothingToDo(f"{folder}: {error.strerror}") from None
        found = files.Found(skipped=[(folder, error.strerror or str(error))])
    sources = found.sources
    tally.skipped += found.skipped
    more = f", {found.left_out} more left out (--files)" * bool(found.left_out)
    progress.say(f"{len(sources)} files from {folder}{more}")
    if made_in is not None:
        made = files.generate(Path(made_in))
        progress.say(
            f"{len(made)} style sheets and images made for the demo, larger ones among them"
        )
        sources = sources + made
    if not sources:
        for path, reason in found.skipped:
            progress.say(f"{path}: {reason}")
        raise _NothingToDo(f"{folder}: no .css, .png or text files there that can be read")
    return _in_order([Task.of(source) for source in sources])


def _in_order(tasks: list[Task]) -> list[Task]:
    """Small ones first, but the largest of each kind second: then others wait behind it."""
    ordered: list[Task] = []
    for kind in jobs.Kind:
        by_cost = sorted((t for t in tasks if t.source.kind == kind), key=lambda task: task.cost)
        ordered += by_cost[:1] + by_cost[1:][-1:] + by_cost[1:-1]
    return ordered


def _work(options: argparse.Namespace, tasks: list[Task], tally: Tally, progress: Progress) -> None:
    config = HubConfig(
        size_classes=tuple(SizeClass(*one) for one in HUB_CLASSES), max_peers=8, max_bytes=MAX_BYTES
    )
    kills = KillPlan(tasks, options.kills, options.seed)
    progress.begin("over the hub", len(tasks))
    began = time.monotonic()
    with (
        HubHost.create(options.path, config) as host,
        Runner(host, tasks, kills, tally, progress.update, progress.say) as runner,
    ):
        runner.run()
        tally.seconds = time.monotonic() - began
        runner.check_idle()
    if kills.done != kills.wanted:
        tally.problems.append(f"{kills.done} kills of {kills.wanted}: there was too little to do")


def _compare(tasks: list[Task], tally: Tally, progress: Progress) -> None:
    """Do all the work again in this process."""
    progress.begin("in-process", len(tasks))
    for number, task in enumerate(tasks, 1):
        if task.outcome is not None:
            with _timed(task, tally):
                _compare_one(task, tally, progress)
        progress.update(number)


@contextlib.contextmanager
def _timed(task: Task, tally: Tally) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds = time.monotonic() - began
    tally.kinds[task.source.kind].seconds_here += seconds
    tally.seconds_here += seconds


def _compare_one(task: Task, tally: Tally, progress: Progress) -> None:
    path = task.source.path
    try:
        data = path.read_bytes()
    except OSError as error:
        tally.skipped.append((path, f"not there for the comparison: {error.strerror}"))
        return
    if jobs.digest(data) != task.read_digest:
        tally.skipped.append((path, "changed while the demo ran, so it cannot be compared"))
        return
    try:
        expected = jobs.run_here(task.source.kind, data)
    except ValueError as error:
        tally.problems.append(f"{path}: {error}")
        return
    if task.outcome == expected:
        tally.equal += 1
        return
    assert task.outcome is not None
    tally.problems.append(
        f"{path}: the plugin's result ({task.outcome.status.name}, {task.outcome.size} bytes) "
        f"is not that of this process ({expected.status.name}, {expected.size} bytes)"
    )
    progress.say(tally.problems[-1])


def _check_coverage(tally: Tally) -> None:
    """The demo's own files are made such that no size class stays unused."""
    for (slot_size, _, _), one in zip(HUB_CLASSES, tally.classes, strict=True):
        if not one.sent + one.received:
            tally.problems.append(f"no message was in a slot of {slot_size} bytes")
    if tally.largest_payload <= 16 << 20:
        tally.problems.append(f"the largest payload had {tally.largest_payload} bytes only")
    if any(task_kind.refused for task_kind in tally.kinds.values()):
        refused = sum(one.refused for one in tally.kinds.values())
        tally.problems.append(f"{refused} files of this installation were refused")


def _tell(options: argparse.Namespace, tally: Tally, left_behind: Sequence[str]) -> None:
    if options.json:
        print(json.dumps(report.as_json(tally, left_behind), indent=2))
    else:
        print(printable(report.render(tally, left_behind), sys.stdout), end="")
