"""The part of the build that pyproject.toml cannot say: the C core and its binding.

The core is built once, as a static library. The extension links it, and the wheel carries it with
its headers, so that plugins in C are built against what `python -m shmhub --cflags --libs` prints.

SHMHUB_WERROR=1 turns warnings into errors (our CI; a user's compiler may know newer warnings),
SHMHUB_CFLAGS adds flags (sanitizers, a test build's counters).
"""

import os
import re
import shlex
import shutil
import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FACADE = "hub.h"
C_FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"]
if os.environ.get("SHMHUB_WERROR") == "1":
    C_FLAGS.append("-Werror")
EXTRA_FLAGS = shlex.split(os.environ.get("SHMHUB_CFLAGS", ""))
CORE_SOURCES = sorted(glob("csrc/*.c"))
HEADERS = sorted(glob("csrc/*.h") + glob("csrc/python/*.h"))


def facade_headers() -> list[Path]:
    """The facade and whatever of the core it includes, directly or not."""
    wanted, found = [FACADE], []
    while wanted:
        path = Path("csrc", wanted.pop())
        if path.exists() and path not in found:
            found.append(path)
            wanted += re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text("utf-8"), re.M)
    return found


class BuildCore(build_ext):
    """Builds the core's static library, links the extension to it, packs both."""

    def build_extensions(self) -> None:
        objects = self.compiler.compile(
            CORE_SOURCES,
            output_dir=self.build_temp,
            extra_postargs=[*C_FLAGS, "-fPIC", *EXTRA_FLAGS],
            depends=HEADERS,
        )
        library = Path(self.build_temp, "libshmhub.a")
        library.unlink(missing_ok=True)  # ar would keep members whose source is gone
        self.compiler.create_static_lib(objects, "shmhub", output_dir=self.build_temp)
        for extension in self.extensions:
            extension.extra_objects = [str(library)]
        super().build_extensions()
        self.pack(Path(self.build_lib, "shmhub"))

    def copy_extensions_to_source(self) -> None:
        """An editable or in-place build."""
        super().copy_extensions_to_source()
        self.pack(Path(self.get_finalized_command("build_py").get_package_dir("shmhub")))

    def pack(self, package: Path) -> None:
        """Put library and headers where `--cflags --libs` looks for them."""
        library = Path(self.build_temp, "libshmhub.a")
        for folder, files in (("lib", [library]), ("include", facade_headers())):
            target = package / folder
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for file in files:
                shutil.copy(file, target)


CORE = Extension(
    "shmhub._core",
    sources=sorted(glob("csrc/python/*.c")),
    depends=[*HEADERS, *CORE_SOURCES],
    # No -Icsrc: csrc/limits.h would stand in for the system's.
    extra_compile_args=[*C_FLAGS, *EXTRA_FLAGS],
    extra_link_args=["-pthread", *EXTRA_FLAGS],
)

# Elsewhere the package installs without its core: importing it and writing a plugin work, creating
# a hub raises UnsupportedPlatformError.
SUPPORTED = sys.platform == "linux"

setup(ext_modules=[CORE] if SUPPORTED else [], cmdclass={"build_ext": BuildCore})
