"""Includes and imports point down only, as drawn in the design."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "shmhub"

# Lowest first. A file belongs to the module that its name begins with (alloc_scan.c: alloc) and
# may include its own module and lower layers; modules of one layer do not know each other.
# hub.h is the facade: its declarations lie at the bottom, what it declares is defined above.
C_LAYERS = (
    ("error", "atomic"),
    ("hub",),
    ("layout", "resource_limits", "copy"),
    ("segment", "ring", "doorbell"),
    ("alloc", "waiter"),
    ("link",),
    ("session",),
    ("inspect", "transport", "fsck"),
    ("spin", "reclaim"),
    ("service",),
    ("host",),
)
# Headers point down without exception. An implementation may look up where what is opened below
# has to be ended, or told of, above; each of these needs its reason.
CLOSING = "what was opened above is closed through hub.h, which is implemented here"
C_EXCEPTIONS: dict[tuple[str, str], str] = {
    ("link.c", "session.h"): "a life of an id keeps its session alive",
    ("session.c", "host.h"): CLOSING,
    ("session.c", "transport.h"): CLOSING,
    ("transport.c", "reclaim.h"): "closing in good order takes back what was never received",
    ("transport.c", "service.h"): "opening and closing is the service thread's to know",
    ("transport_recv.c", "service.h"): "a broken message is told to the service thread",
    ("transport_send.c", "service.h"): "a ring that cannot be is told to the service thread",
}

PYTHON_LAYERS = (
    ("_version", "_errors"),
    ("_core",),
    ("_native",),
    ("_config", "_statistics", "_fsck", "_argv"),
    ("_protocols",),
    ("_peer_info",),
    ("_host", "_peer"),
    ("_transport",),
    ("_rpc",),
    ("plugin",),
    ("_aio_waiting",),
    ("aio",),
    ("__init__",),
    ("_inspect", "_gc", "demo", "testing"),
    ("_fsck_command",),
    ("_doctor_probes",),
    ("_doctor",),
    ("__main__",),
)
# aio and plugin are loaded by __init__ on demand.


def ranks(layers: tuple[tuple[str, ...], ...]) -> dict[str, int]:
    return {name: rank for rank, layer in enumerate(layers) for name in layer}


C_RANKS, PYTHON_RANKS = ranks(C_LAYERS), ranks(PYTHON_LAYERS)


def c_module(name: str) -> str:
    stem = name.removesuffix(".c").removesuffix(".h")
    fitting = [one for one in C_RANKS if stem == one or stem.startswith(one + "_")]
    return max(fitting, key=len, default=stem)


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text("utf-8"), re.MULTILINE)


C_FILES = sorted([*CSRC.glob("*.c"), *CSRC.glob("*.h")])
BINDING_FILES = sorted([*CSRC.glob("python/*.c"), *CSRC.glob("python/*.h")])


def test_there_is_something_to_check() -> None:
    assert len(C_FILES) > 15
    assert len(BINDING_FILES) > 10


@pytest.mark.parametrize("path", C_FILES, ids=lambda path: path.name)
def test_core_includes_point_down(path: Path) -> None:
    module = c_module(path.name)
    assert module in C_RANKS, f"say in C_LAYERS where {module} belongs"
    for name in includes(path):
        other = c_module(name)
        allowed = other == module or C_RANKS[other] < C_RANKS[module]
        assert allowed or (path.name, name) in C_EXCEPTIONS, f"{path.name} includes {name}"


def test_each_exception_is_needed() -> None:
    for name, included in C_EXCEPTIONS:
        assert included in includes(CSRC / name)


@pytest.mark.parametrize("path", C_FILES, ids=lambda path: path.name)
def test_the_core_knows_nothing_of_python(path: Path) -> None:
    assert "Python.h" not in path.read_text("utf-8")


@pytest.mark.parametrize("path", C_FILES, ids=lambda path: path.name)
def test_only_atomic_h_names_memory_orders(path: Path) -> None:
    if path.name != "atomic.h":
        names = re.findall(r"memory_order_\w+|__ATOMIC_\w+|stdatomic\.h", path.read_text("utf-8"))
        assert names == []


@pytest.mark.parametrize("path", BINDING_FILES, ids=lambda path: path.name)
def test_the_binding_sees_the_facade_and_itself(path: Path) -> None:
    own = {one.name for one in BINDING_FILES}
    for name in includes(path):
        assert name in own | {"../hub.h", "hub.h"}, f"{path.name} includes {name}"


# ---- Python ------------------------------------------------------------------------------------


def python_module(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, `__init__` for the package itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "shmhub"]
            found |= {name.partition(".")[2].partition(".")[0] or "__init__" for name in names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "shmhub":
                found |= {
                    alias.name if alias.name in PYTHON_RANKS else "__init__" for alias in node.names
                }
            elif node.module is not None and node.module.startswith("shmhub."):
                found.add(node.module.split(".")[1])
    return found


PYTHON_FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize(
    "path", PYTHON_FILES, ids=lambda path: str(path.relative_to(PACKAGE)).removesuffix(".py")
)
def test_imports_point_down(path: Path) -> None:
    module = python_module(path)
    assert module in PYTHON_RANKS, f"say in PYTHON_LAYERS where {module} belongs"
    for other in imported(path):
        allowed = (other == module and (PACKAGE / module).is_dir()) or PYTHON_RANKS[
            other
        ] < PYTHON_RANKS[module]
        assert allowed, f"{module} imports {other}"


def test_the_layout_comment_names_every_module() -> None:
    comment = (PACKAGE / "__init__.py").read_text("utf-8").partition("# General layout")[2]
    drawing = comment.partition("\nimport ")[0]
    for name in {python_module(path) for path in PYTHON_FILES} - {"__init__"}:
        assert re.search(rf"^#.*\b{name}\b", drawing, re.MULTILINE), f"{name} is not drawn"


def test_errors_import_nothing_of_ours() -> None:
    assert imported(PACKAGE / "_errors.py") == set()
    assert imported(PACKAGE / "_version.py") == set()
