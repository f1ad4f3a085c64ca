"""The agent as a program that is really executed: ``peer_program.py --control-fd=N [hub options]``.

With ``--hub-path --peer-id --doorbell-fd`` it attaches before it takes commands, in the way a
plugin does it.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

import shmhub
from tests.support import agent
from tests.support.agent_store import Store
from tests.support.processes import die_with_parent


def _attach(store: Store) -> None:
    if any(argument.startswith("--hub-path") for argument in sys.argv):
        store.transports["main"] = shmhub.HubPeerTransport.from_argv(name="main")


def main() -> int:
    die_with_parent()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    (control,) = (a for a in sys.argv if a.startswith("--control-fd="))
    return agent.main(fds={"control": int(control.partition("=")[2])}, set_up=_attach)


if __name__ == "__main__":
    sys.exit(main())
