"""`python -m shmhub demo`: real files through three plugins over one hub, with a SIGKILL in the
middle, and every result checked."""

# General layout, lowest first:
#
#   filters  css  png  text        the work: pure functions on bytes
#   jobs                           what is said between host and plugins
#   plugin  plugin_*               the three programs
#   files  tally  killing          what to work on, what to count, whom to kill
#   crew                           the plugins' processes and how much each may have to do
#   runner                         the host
#   progress  report  leftovers    what the user sees, and the look round at the end
#   program                        all of that, from command line to exit status

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo with the arguments that follow its name; returns the exit status.

    0: all of it was right and nothing was left behind. 1: not so. 2: nothing to work on.
    """
    # Imported here: a plugin imports this package, too, and has no use for the host's side.
    import sys

    from shmhub.demo.program import run

    return run(sys.argv[1:] if argv is None else argv)
