"""Where there is no compiled core: importing works, using it says why it does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

# None in sys.modules makes the import fail as it does where nothing was built.
BLOCKED = "import sys; sys.modules['shmhub._core'] = None; import shmhub\n"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKED + code],
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(
    "use",
    [
        "shmhub.HubHost.create()",
        "shmhub.HubPeer.open('/dev/shm/x', 1)",
        "shmhub.Doorbell.from_raw_fd(0)",
        "shmhub.HubPeerTransport.from_argv(['--hub-path=x', '--peer-id=1', '--doorbell-fd=0'])",
    ],
)
def test_using_a_hub_is_refused_with_the_reason(use: str) -> None:
    code = (
        f"try:\n    {use}\n"
        "except shmhub.UnsupportedPlatformError as error:\n"
        "    assert isinstance(error, OSError) and error.errno\n"
        "    print(error)\n"
    )
    outcome = run(code)
    assert outcome.returncode == 0, outcome.stderr
    assert "no compiled core" in outcome.stdout
    assert "shmhub._core" in outcome.stdout


def test_configuration_errors_and_annotations_need_no_core() -> None:
    code = (
        "config = shmhub.HubConfig(max_peers=4)\n"
        "assert issubclass(shmhub.HubPeerTransport, object)\n"
        "def work(transport: shmhub.Transport, slot: shmhub.Slot) -> shmhub.Frame: ...\n"
        "print(config.max_peers, shmhub.aio.HubHostTransport.__name__)\n"
    )
    outcome = run(code)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.split() == ["4", "HubHostTransport"]
