"""shmhub.testing as a plugin of pytest: a leak fails the user's test and says what it is."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

pytestmark = pytest.mark.time_limit(180)

PLUGIN = """
    import shmhub
    plugin = shmhub.Plugin("keeper")
    KEPT = []
    @plugin.method
    def echo(value): return value
    @plugin.method
    def keep(value): KEPT.append(value)
    @plugin.method
    def drop(): KEPT.clear()
"""
DOC = Path(__file__).resolve().parents[2] / "docs" / "testing.md"


def run(pytester: pytest.Pytester, body: str, *options: str) -> pytest.RunResult:
    """A user's test file, in a pytest of its own."""
    pytester.makepyfile(keeper=textwrap.dedent(PLUGIN))
    pytester.makepyfile(
        test_of_user="import pytest, shmhub\nfrom shmhub.testing import *\n" + textwrap.dedent(body)
    )
    return pytester.runpytest_subprocess(
        "-p", "shmhub.testing", "-p", "no:cacheprovider", *options, timeout=120
    )


def test_clean_tests_pass(pytester: pytest.Pytester) -> None:
    outcome = run(
        pytester,
        """
        import sys

        def test_hub(hub):
            info = hub.add_peer()
            code = (
                "import shmhub\\n"
                "with shmhub.HubPeerTransport.from_argv() as host:\\n"
                "    for frame in host: host.send(frame)\\n"
            )
            process = info.popen([sys.executable, "-c", code])
            with shmhub.HubHostPeerTransport(hub, info.peer_id, info.doorbell) as transport:
                transport.send(bytes(5000))
                assert bytes(transport.recv(30)) == bytes(5000)
            assert process.wait(30) == 0

        def test_plugin_host(plugin_host):
            keeper = plugin_host.spawn("keeper.py", replicas=2)
            view = keeper.options(view=True).echo(bytes(5000))
            assert view == bytes(5000)
            keeper.keep(memoryview(bytes(5000)))
            keeper.stop()

        def test_closed_by_the_test_itself(hub, plugin_host):
            plugin_host.close()
            hub.close()

        @pytest.fixture
        def keeper(plugin_host):
            return plugin_host.spawn("keeper.py")

        def test_by_way_of_a_fixture_of_the_users(keeper):
            assert keeper.echo(1) == 1
        """,
    )
    outcome.assert_outcomes(passed=4)


LEAKS = {
    "a slot of the host's": (
        """
        KEPT = []
        def test(plugin_host):
            keeper = plugin_host.spawn("keeper.py").options(view=True)
            KEPT.append(keeper.echo(bytes(5000)))
        """,
        [r"slot 1:\d+ of 16384 bytes: owned by the host"],
    ),
    "a slot of a plugin's": (
        """
        def test(plugin_host):
            plugin_host.spawn("keeper.py").keep(memoryview(bytes(5000)))
        """,
        [r"slot 1:\d+ of 16384 bytes: owned by peer 1 'keeper' \(pid \d+\)"],
    ),
    "an unread message": (
        """
        KEPT = []
        def test(hub):
            info = hub.add_peer("reader")
            transport = shmhub.HubHostPeerTransport(hub, info.peer_id, info.doorbell)
            transport.send(bytes(5000))
            KEPT.append(transport)
        """,
        [r"slot 1:\d+ of 16384 bytes: in_ring: sent and not received, from the host to peer 1"],
    ),
    "a process": (
        """
        def test(hub):
            hub.add_peer().popen(["sh", "-c", "exec sleep 3600", "sh"])
        """,
        [r"process \d+: (sleep 3600|sh -c exec sleep 3600)"],
    ),
    "a descriptor": (
        """
        import os
        def test(plugin_host):
            os.pipe()
        """,
        [r"descriptor \d+ -> pipe:"],
    ),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_fails_the_test_and_is_named(pytester: pytest.Pytester, kind: str) -> None:
    body, expected = LEAKS[kind]
    body = textwrap.dedent(body) + "\ndef test_another_one(hub, plugin_host): pass\n"
    outcome = run(pytester, f"pytestmark = pytest.mark.shmhub(patience=0.2)\n{body}")
    assert outcome.ret == pytest.ExitCode.TESTS_FAILED
    # The leak fails its own test and no other.
    outcome.assert_outcomes(passed=2, errors=1)
    text = outcome.stdout.str()
    assert "ERROR at teardown of test _" in text
    for line in expected:
        assert re.search(line, text), text
    # Whatever it was, it is gone: processes were killed.
    assert "LeakError" in text


def test_a_failure_is_not_hidden_by_a_leak(pytester: pytest.Pytester) -> None:
    outcome = run(
        pytester,
        """
        def test(plugin_host):
            view = plugin_host.spawn("keeper.py").options(view=True).echo(bytes(5000))
            assert view == b"", "the real reason"
        """,
    )
    outcome.assert_outcomes(failed=1)
    outcome.stdout.fnmatch_lines(["*the real reason*"])


def test_config_and_options_come_from_marker_or_fixture(pytester: pytest.Pytester) -> None:
    outcome = run(
        pytester,
        """
        CONFIG = shmhub.HubConfig(max_peers=3)

        @pytest.mark.shmhub(config=CONFIG)
        class TestMarked:
            def test_hub(self, hub):
                assert hub.config.max_peers == 3

            @pytest.mark.shmhub(codec="plain", stop_timeout=1)
            def test_plugin_host(self, plugin_host):
                assert plugin_host.hub.config.max_peers == 3
                with pytest.raises(shmhub.CodecError):
                    plugin_host.spawn("keeper.py").echo(object())

        class TestOverridden:
            @pytest.fixture
            def hub_config(self):
                return shmhub.HubConfig(max_peers=4)

            @pytest.fixture
            def plugin_host_options(self):
                return {"codec": "plain"}

            def test_hub(self, hub):
                assert hub.config.max_peers == 4

            def test_plugin_host(self, plugin_host):
                with pytest.raises(shmhub.CodecError):
                    plugin_host.spawn("keeper.py").echo(object())

        @pytest.mark.shmhub(CONFIG)
        def test_wrong(hub): pass
        """,
        "--strict-markers",
    )
    outcome.assert_outcomes(passed=4, errors=1)
    outcome.stdout.fnmatch_lines(["*shmhub takes keywords only*"])


def test_it_can_be_named_in_a_conftest_as_well(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('import shmhub.testing\npytest_plugins = ["shmhub.testing"]')
    pytester.makepyfile("def test(hub): assert not hub.closed")
    outcome = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", timeout=120)
    outcome.assert_outcomes(passed=1)


def test_it_is_not_loaded_by_itself(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test(hub): pass")
    outcome = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=120)
    outcome.assert_outcomes(errors=1)
    outcome.stdout.fnmatch_lines(["*fixture 'hub' not found*"])


def test_what_the_documentation_shows_runs(pytester: pytest.Pytester) -> None:
    """Each block begins with a comment that names its file; the tests among them all pass."""
    blocks = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", DOC.read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= 5
    for name, body in blocks:
        pytester.path.joinpath(f"{name}.py").write_text(body)
    outcome = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=160)
    expected = sum(body.count("def test_") + body.count(".TestCase\n") for _, body in blocks)
    outcome.assert_outcomes(passed=expected)
