"""The examples of plugins, run as a reader would run them."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmhub
from shmhub import HubConfig, SizeClass
from tests.support.environment import PATIENCE, ROOT

EXAMPLES = ROOT / "examples"
COMPILER = os.environ.get("CC") or shutil.which("cc")

pytestmark = pytest.mark.time_limit(180)


def run(name: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_hello() -> None:
    assert run("hello") == ["Hello, world!"]


def test_callbacks() -> None:
    lines = run("callbacks")
    assert "2 of 2 documents" in lines
    counted = [line for line in lines if " x " in line]
    assert counted == sorted(
        ["1 x brown", "2 x dog", "2 x fox", "1 x jumps", "2 x lazy", "1 x looks", "2 x quick"],
        key=lambda line: line.split()[-1],
    )


def test_streaming() -> None:
    through, slowly, ended = run("streaming", "16")
    assert through.startswith("16632000 bytes") and through.endswith("are the same again")
    made = re.fullmatch(r"10 blocks were read, (\d+) were made: .*", slowly)
    assert made and 10 <= int(made[1]) <= 27, slowly  # a window of 16, and one in the making
    assert ended == "the generator has ended"


# ---- c_plugin ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def c_plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Built with more warnings than the example asks for."""
    if not COMPILER:
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("c_plugin") / "plugin"
    flags = subprocess.run(
        [sys.executable, "-m", "shmhub", "--cflags", "--libs"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    sources = [str(path) for path in (EXAMPLES / "c_plugin").glob("*.c")]
    strict = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1"]
    subprocess.run([*COMPILER.split(), *strict, *sources, *flags, "-o", str(program)], check=True)
    return str(program)


@pytest.mark.skipif(not COMPILER, reason="no C compiler")
def test_c_plugin() -> None:
    *values, error = run("c_plugin")
    assert values == ["16777216 bytes inverted: right", "65536 of them were 7", "b'shmshm'"]
    assert error in [  # whichever replica it was
        f"plugin/{number}.count raised ValueError: a byte is a number from 0 to 255"
        for number in range(2)
    ]


def test_a_plugin_in_c_takes_what_it_can_and_refuses_the_rest(c_plugin: str) -> None:
    with shmhub.PluginHost(echo=False) as host:
        plugin = host.spawn([c_plugin], codec="plain")
        for size in (0, 1, 200, 255, 256, 257, 1000, 65535, 1 << 20):
            data = os.urandom(size)
            expected = bytes(255 - byte for byte in data[:2000])
            for given in (data, bytearray(data), memoryview(data)):
                assert plugin.invert(given)[:2000] == expected
            assert plugin.count(data, 7) == data.count(7)
        for wrong in ((), (1,), (b"", b""), ([],), ({},), (2**70, 1), (b"", 1.5), (b"", None)):
            with pytest.raises(TypeError, match=r"it is count\(data: bytes, byte: int\) -> int"):
                plugin.count(*wrong)
        with pytest.raises(TypeError):
            plugin.count(b"", byte=1)
        with pytest.raises(OverflowError):
            plugin.repeat(b"ab", 2**63 - 1)
        with pytest.raises(shmhub.PluginMissingMethod):
            plugin.call("repaet")
        assert [plugin.submit("repeat", b"ab", n).result(PATIENCE) for n in range(3)] == [
            b"",
            b"ab",
            b"abab",
        ]
        pid = plugin.pid
        os.kill(pid, signal.SIGKILL)
        assert plugin.count(b"aaa", 97) == 3
        assert plugin.pid != pid
        plugin.stop()
        assert plugin.state == "stopped"


def test_a_plugin_in_c_needs_no_slot(c_plugin: str) -> None:
    """With none to be had, both directions go in parts."""
    config = HubConfig(size_classes=(SizeClass(4096, 2, 2),), max_peers=3, ring_capacity=8)
    with shmhub.PluginHost(config, echo=False) as host:
        plugin = host.spawn([c_plugin], codec="plain", call_timeout=PATIENCE)
        transport = host._site.engine.transport
        slots = [transport.alloc(4096, timeout=PATIENCE) for _ in range(2)]
        data = bytes(range(250)) * 8
        futures = [plugin.submit("invert", data) for _ in range(3)]
        assert [one.result() for one in futures] == [bytes(255 - one for one in data)] * 3
        for slot in slots:
            slot.release()


# ---- async_web ---------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[str]:
    pytest.importorskip("aiohttp", reason="extra examples")
    pytest.importorskip("PIL", reason="extra examples")
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "async_web"), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.communicate()


def ask(url: str, data: bytes | None = None, kind: str = "image/png") -> tuple[int, str, bytes]:
    request = urllib.request.Request(url, data, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.headers.get_content_type(), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get_content_type(), error.read()


def test_async_web(server: str) -> None:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (900, 300), "red").save(file, "PNG")
    status, kind, body = ask(server)
    assert (status, kind) == (200, "text/html") and b"<form" in body
    form = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        + file.getvalue()
        + b"\r\n--x--\r\n"
    )
    for data, encoding in (
        (file.getvalue(), "image/png"),
        (form, "multipart/form-data; boundary=x"),
    ):
        status, kind, body = ask(f"{server}/thumbnail", data, encoding)
        assert (status, kind) == (200, "image/webp"), body
        with Image.open(io.BytesIO(body)) as picture:
            assert (picture.format, picture.size) == ("WEBP", (256, 85))
    assert ask(f"{server}/thumbnail", b"no image")[::2] == (415, b"that is no image")
    empty = b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\n1\r\n--x--\r\n'
    assert ask(f"{server}/thumbnail", empty, "multipart/form-data; boundary=x")[0] == 400


def test_the_examples_are_listed_where_one_looks_for_them() -> None:
    page = Path(EXAMPLES / "README.md").read_text("utf-8")
    for path in EXAMPLES.iterdir():
        if path.name[0] not in "_." and path.name != "README.md":
            assert f"`{path.name}`" in page, path.name
            assert path.suffix == ".py" or (path / "README.md").exists(), path.name
