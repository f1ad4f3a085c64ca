"""Builds the plugin in C, starts it and calls it: `python examples/c_plugin`."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import shmhub

HERE = Path(__file__).resolve().parent


def build(folder: str) -> Path:
    """cc plugin.c serve.c $(python -m shmhub --cflags --libs) -o plugin"""
    flags = subprocess.run(
        [sys.executable, "-m", "shmhub", "--cflags", "--libs"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    compiler = shlex.split(os.environ.get("CC", "cc"))
    sources = [str(HERE / "plugin.c"), str(HERE / "serve.c")]
    program = Path(folder, "plugin")
    subprocess.run([*compiler, "-O2", *sources, *flags, "-o", str(program)], check=True)
    return program


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, shmhub.PluginHost() as host:
        plugin = host.spawn([str(build(folder))], codec="plain", replicas=2)
        pixels = bytes(range(256)) * 65536  # 16 MiB
        inverted = plugin.invert(pixels)
        print(
            f"{len(inverted)} bytes inverted:",
            "right" if inverted[:3] == b"\xff\xfe\xfd" else "WRONG",
        )
        print(plugin.count(pixels, 7), "of them were 7")
        print(plugin.repeat(b"shm", 2))
        try:
            plugin.count(pixels, 256)
        except ValueError as error:
            print(error)


if __name__ == "__main__":
    main()
