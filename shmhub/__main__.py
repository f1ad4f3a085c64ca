"""The command line: `python -m shmhub COMMAND`. Commands are imported only when they are run."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from shmhub._version import __version__

# Each has add_arguments(parser) and main(options) -> exit status.
MODULES = {
    "inspect": "shmhub._inspect",
    "fsck": "shmhub._fsck_command",
    "gc": "shmhub._gc",
    "doctor": "shmhub._doctor",
}
COMMANDS = ["demo", *MODULES]

EXAMPLE = """\
commands:
  demo [DIR]       files through three plugins over one hub, one of them killed on the way
  inspect TARGET   what a hub holds: of a live one by path, pid or descriptor, or of a dead one
  fsck TARGET      is everything in a hub's memory sound: a live one, a dead one, a core dump
  gc [PATH...]     remove named hubs whose host is dead
  doctor           what on this machine would hurt a hub, and what to do about it

example:
  python -m shmhub demo
  cc plugin.c $(python -m shmhub --cflags --libs) -o plugin
"""


def _build_flags(options: argparse.Namespace) -> str:
    """How to build a C program against this installation."""
    package = Path(__file__).resolve().parent
    include, library = package / "include", package / "lib"
    if not (include / "hub.h").exists() or not (library / "libshmhub.a").exists():
        raise FileNotFoundError(
            f"this installation of shmhub has no C library in {package}: it was installed without "
            "its compiled core; reinstall it where there is a C compiler"
        )
    flags = [f"-I{include}"] if options.cflags else []
    if options.libs:
        flags += [f"-L{library}", "-lshmhub", "-pthread"]
    return " ".join(flags)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shmhub",
        description="One shared-memory hub between a host process and its plugins.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"shmhub {__version__}")
    parser.add_argument("--cflags", action="store_true", help="print where hub.h is")
    parser.add_argument("--libs", action="store_true", help="print how to link libshmhub.a")
    parser.add_argument("command", nargs="?", choices=COMMANDS, help="see below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _run_command(name: str, arguments: Sequence[str]) -> int:
    if name == "demo":
        from shmhub import demo

        return demo.main(list(arguments))
    module = importlib.import_module(MODULES[name])
    parser = argparse.ArgumentParser(prog=f"python -m shmhub {name}")
    module.add_arguments(parser)
    status: int = module.main(parser.parse_args(arguments))
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit status: 0 fine, 1 not, 2 wrong usage."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.cflags or options.libs:
        try:
            print(_build_flags(options))
        except FileNotFoundError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    return _run_command(options.command, options.arguments)


if __name__ == "__main__":
    sys.exit(main())
