"""The file that `Faults.spawn` has spawned: the real plugin, in a process that can be made to die.

Found by its path and loaded by the bootstrap like any plugin's file; the plugin that it names is
then loaded as the bootstrap would have done, under its own name.
"""

from __future__ import annotations

import json
import os
import sys

from shmhub import Plugin
from shmhub.plugin._bootstrap import _load
from shmhub.testing import _dying

_told = json.loads(os.environ.pop(_dying.VARIABLE))
_dying.install(_told["fifos"])
_options = {**(Plugin._given_options or {}), **_told["options"]}
plugin = _load(_options, sys.argv[1:])
if plugin is None:  # it has called `run` itself while it was imported, and is done
    plugin = Plugin("done")
    plugin._has_run = True
