"""shmhub.testing.PluginMachine: a sound plugin passes, and each kind of unsound one is found."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import rule, run_state_machine_as_test

import shmhub
from shmhub.testing import PluginMachine, strategies
from tests.support.environment import is_full_run
from tests.support.plugins import ZOO, write_plugin

pytestmark = pytest.mark.time_limit(600)

SMALL = shmhub.HubConfig(
    size_classes=(shmhub.SizeClass(1024, 4, 4), shmhub.SizeClass(16384, 2, 2)),
    max_peers=5,
    ring_capacity=16,
)


def run(machine: type[PluginMachine], examples: int, steps: int, *, seed: Any = None) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=seed is not None,
            phases=[Phase.generate],  # shrinking starts hundreds of plugins
            suppress_health_check=list(HealthCheck),
        ),
    )


class EchoMachine(PluginMachine):
    target = ZOO
    options: ClassVar = {"replicas": 2}
    config = SMALL
    used: ClassVar[Counter[str]] = Counter()

    @rule(value=strategies.plain_values(max_leaves=5) | strategies.payloads(SMALL, max_size=10_000))
    def echo(self, value: Any) -> None:
        self.used["echo"] += 1
        self.call("echo", value, expected=value)

    @rule(value=st.integers())
    def echo_from_a_task(self, value: int) -> None:
        self.call("async_echo", value, expected=lambda answer: answer == value)

    def teardown(self) -> None:
        super().teardown()
        self.used["deaths"] += len(self._deaths)


def test_a_sound_plugin_passes(leak_check: None) -> None:
    used = EchoMachine.used
    used.clear()
    examples, steps = (60, 40) if is_full_run() else (4, 16)
    # Hypothesis leaves rules out, by chance all that matter. Several examples each time: its first
    # is always the same, the smallest there is.
    for _ in range(10):
        run(EchoMachine, examples, steps)
        if used["echo"] and used["deaths"]:
            return
    raise AssertionError(f"nothing was shown: {used}")


UNSOUND = {
    "answers wrongly": (
        "def echo(value): return value if len(value) < 600 else value[:-1]",
        r"echo\(\) has answered .* instead of",
    ),
    "answers with another type": (
        "def echo(value): return bytearray(value)",
        r"echo\(\) has answered .* instead of",
    ),
    "keeps a slot": (
        "def echo(value: memoryview, kept=[]): kept.append(value); return bytes(value)",
        r"owned by peer \d+ 'unsound",
    ),
    "dies by itself": (
        "def echo(value):\n    if len(value) >= 600: os.abort()\n    return value",
        r"by itself|were killed; the last: .*SIGABRT",
    ),
}


@pytest.mark.parametrize("kind", UNSOUND)
def test_an_unsound_plugin_is_found(kind: str, tmp_path: Path) -> None:
    body, message = UNSOUND[kind]
    head = "import os\nimport shmhub\nplugin = shmhub.Plugin('unsound')\n@plugin.method\n"
    path = write_plugin(tmp_path, head + body, "unsound")

    class Machine(PluginMachine):
        target = path
        patience = 0.5

        @rule(value=st.sampled_from((b"", bytes(600), bytes(5000))))
        def echo(self, value: bytes) -> None:
            self.call("echo", value, expected=value)

    with pytest.raises(AssertionError, match=message):
        for _ in range(3):
            # Processes do not end in the same step each time, which hypothesis takes amiss.
            with contextlib.suppress(Flaky):
                run(Machine, 20, 20, seed=1)


def test_a_process_that_is_left_is_found(tmp_path: Path) -> None:
    """Of the machine's own, here: a rule that starts a process and forgets it."""
    import subprocess

    started: list[subprocess.Popen[bytes]] = []

    class Machine(PluginMachine):
        target = ZOO
        patience = 0.5

        @rule()
        def start(self) -> None:
            started.append(subprocess.Popen(["sleep", "3600"]))

    try:
        with pytest.raises(AssertionError, match=r"process \d+: sleep 3600"):
            run(Machine, 3, 8, seed=1)
    finally:
        for one in started:
            one.kill()
            one.wait()


def test_each_rule_that_comes_with_it_works(leak_check: None) -> None:
    """One after the other, by hand, where chance may leave one out."""
    machine = EchoMachine()
    try:
        first = machine.plugin.pid
        machine.restart()
        assert machine.plugin.pid != first
        machine.stop()
        machine.echo(b"while it is stopped")
        machine.every_answer_is_right()
        machine.go_on()
        machine.settle()
        machine.exhaust()
        machine.echo(bytes(5000))
        machine.kill(0)
        machine.echo(bytes(5000))
        machine.no_slot_is_lost()
        machine.relieve()
        machine.kill_at(2, on="sending")
        machine.echo(1)
        machine.echo(2)
        machine.stop()
        machine.kill(1)
        machine.echo(3)
        machine.settle()
        machine.no_slot_is_lost()
    finally:
        machine.teardown()
    assert len(machine._deaths) >= 2
    assert not os.path.exists(machine.faults._folder)
