"""`-X dev -W error`: no warning, no debug hook complains, in ordinary use and at the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import shmhub
from tests.support.environment import PATIENCE, ROOT
from tests.support.stage import Stage, small

_DEVELOPMENT = ("-X", "dev", "-W", "error")
_PROGRAMS = ROOT / "tests" / "support" / "programs"

_ORDERLY_HOST = """
import asyncio, subprocess, sys
import shmhub

plugin = [sys.executable, "-X", "dev", "-W", "error", sys.argv[1]]

def converse(path):
    with shmhub.HubHost.create(path) as host:
        info = host.add_peer("echo")
        with info.popen(plugin) as process:
            with shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell) as transport:
                for size in (0, 100, 5000, 3_000_000):
                    transport.send(bytes(size))
                    with transport.recv(timeout=30) as frame:
                        assert len(frame) == size
                transport.send_many([b"a", b"b" * 5000])
                got = 0
                while got < 2:
                    got += len(transport.recv_many(2, timeout=30))
                transport.statistics()
            assert process.wait() == 0
        host.statistics()

async def converse_async():
    # process.wait() and a busy machine are no fault of ours.
    asyncio.get_running_loop().slow_callback_duration = 60
    with shmhub.HubHost.create() as host:
        info = host.add_peer("echo")
        with info.popen(plugin) as process:
            async with shmhub.aio.HubHostPeerTransport(host, info.peer_id, info.doorbell) as hub:
                await hub.send(b"x" * 5000)
                frame = await hub.recv()
                frame.release()
                try:
                    await hub.recv(timeout=0.05)
                except shmhub.HubTimeoutError:
                    pass
            assert process.wait() == 0

converse(None)
converse(sys.argv[2])
asyncio.run(converse_async())
print("clean")
"""

_CARELESS_HOST = """
import sys
import shmhub
host = shmhub.HubHost.create()
info = host.add_peer()
transport = shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell)
slot = transport.alloc(5000)
view = memoryview(slot)
all_of_them = shmhub.HubHostTransport(host)
"""

_WAITING_THREADS = """
import threading
import shmhub
host = shmhub.HubHost.create()
info = host.add_peer()
transport = shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell)
begun = threading.Semaphore(0)
def wait():
    begun.release()
    transport.recv()
for _ in range(3):
    threading.Thread(target=wait, daemon=True).start()
for _ in range(3):
    begun.acquire()
"""

_EXIT_HANDLERS = """
import atexit
import shmhub
host = shmhub.HubHost.create()
atexit.register(lambda: host.closed)
atexit.register(host.close)
"""


def _run(
    program: str, *arguments: str, options: tuple[str, ...] = _DEVELOPMENT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-Pc", program, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
    )


def test_ordinary_use_is_clean(stage: Stage, tmp_path: Path) -> None:
    done = _run(_ORDERLY_HOST, str(_PROGRAMS / "echo_plugin.py"), str(tmp_path / "hub"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "clean\n", "")


@pytest.mark.parametrize(
    "program", [_CARELESS_HOST, _WAITING_THREADS], ids=["nothing closed", "threads waiting"]
)
def test_a_careless_program_ends_in_good_order(stage: Stage, program: str) -> None:
    """Without -W error: that nothing was closed may be a ResourceWarning, a crash it may not be."""
    done = _run(program, options=("-X", "dev"))
    assert done.returncode == 0, done.stderr
    assert "Fatal" not in done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_hub_objects_in_exit_handlers(stage: Stage) -> None:
    done = _run(_EXIT_HANDLERS)
    assert (done.returncode, done.stderr) == (0, "")


def test_peers_are_clean_in_development_mode(stage: Stage) -> None:
    host = stage.host(small())
    info = host.add_peer()
    transport = stage.later(shmhub.HubHostPeerTransport(host, info.peer_id, info.doorbell))
    agent = stage.popen_peer(info, options=_DEVELOPMENT)
    transport.send(b"x" * 5000)
    assert agent.call("recv_raw", timeout=PATIENCE) == 5000
    agent.call("send", count=5, size=700)
    agent.call("alloc", nbytes=1000, count=2)
    agent.call("release")
    for _ in range(5):
        transport.recv(timeout=PATIENCE).release()
    agent.leave()
    assert agent.child.read_stderr() == ""


def test_the_core_may_be_imported_first(stage: Stage) -> None:
    """Importing the extension before the package is the same module, not a second one."""
    program = (
        "import shmhub._core, sys\n"
        "import shmhub\n"
        "assert shmhub._core is sys.modules['shmhub._core']\n"
        "h = shmhub.HubHost.create(); h.close()\n"
    )
    done = _run(program)
    assert (done.returncode, done.stderr) == (0, "")
