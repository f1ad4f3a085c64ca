"""The program that becomes a plugin: `python .../plugin/__main__.py TARGET ... --hub-path=...`.

Started by `PluginHost.spawn`, by path, in whatever Python it was told to use: it begins by saying
what is wrong when that is too old or has no shmhub.
"""

import json
import os
import sys

VARIABLE = "SHMHUB_PLUGIN_OPTIONS"
FAILED, WRONG_USE = 3, 2


def _main() -> int:
    here = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0]) == here:
        del sys.path[0]  # the folder of a script; its modules are not to be found by bare names
    text = os.environ.get(VARIABLE)
    if not text or len(sys.argv) < 2:
        sys.stderr.write(
            "This program is started by shmhub.PluginHost.spawn(), for plugins that are files, "
            "modules or entry points;\nsee `python -m shmhub --help` for what can be started by "
            "hand.\n"
        )
        return WRONG_USE
    options = json.loads(text)
    python = f"{sys.executable} is Python {sys.version.split()[0]}"
    if sys.version_info < (3, 11):  # noqa: UP036 - that is the point
        sys.stderr.write(f"{python}: shmhub needs 3.11 or later\n")
        return FAILED
    if "path" in options:
        sys.path[:] = options["path"]
    try:
        from shmhub.plugin import _bootstrap
    except ImportError as error:
        sys.stderr.write(f"{python}: shmhub is not installed for it ({error})\n")
        return FAILED
    return _bootstrap.main(options, sys.argv[2:])


if __name__ == "__main__":
    sys.exit(_main())
