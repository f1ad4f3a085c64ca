"""What `import shmhub` offers, and what it costs."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import shmhub
from shmhub import _errors

PACKAGE = Path(shmhub.__file__).parent
MODULES = sorted(
    path for path in PACKAGE.glob("*.py") if path.name not in {"__main__.py", "_version.py"}
)


def test_all_names_exist_once_and_no_public_name_is_left_out() -> None:
    assert len(set(shmhub.__all__)) == len(shmhub.__all__)
    for name in shmhub.__all__:
        assert getattr(shmhub, name) is not None
    helpers = {"TYPE_CHECKING", "Any", "logging", "annotations", "demo", "plugin", "testing"}
    offered = {name for name in vars(shmhub) if not name.startswith("_")} - helpers
    assert offered <= set(shmhub.__all__)


def test_every_error_is_public() -> None:
    assert set(_errors.__all__) <= set(shmhub.__all__)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_each_module_lists_what_it_offers(path: Path) -> None:
    module = ast.parse(path.read_text("utf-8"))
    listed = [
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign)
        and any(isinstance(one, ast.Name) and one.id == "__all__" for one in node.targets)
    ]
    assert len(listed) == 1, "exactly one __all__"
    defined = {
        node.name
        for node in module.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    }
    assert defined <= set(listed[0])


def test_everything_public_is_documented() -> None:
    for name in shmhub.__all__:
        offered = getattr(shmhub, name)
        if isinstance(offered, type):
            assert offered.__doc__, f"{name} has no docstring"


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_core.pyi").exists()


def test_silent_unless_asked() -> None:
    handlers = logging.getLogger("shmhub").handlers
    assert any(isinstance(one, logging.NullHandler) for one in handlers)


def test_a_plugin_does_not_pay_for_asyncio_or_multiprocessing() -> None:
    code = (
        "import sys; before = set(sys.modules); import shmhub; "
        "print(*sorted((set(sys.modules) - before) & "
        "{'asyncio', 'multiprocessing', 'subprocess', 'argparse', 'numpy'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_aio_is_there_when_it_is_asked_for() -> None:
    code = "import shmhub; print(shmhub.aio.HubPeerTransport.__name__, 'asyncio' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}"], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["HubPeerTransport", "True"]


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'hub'"):
        shmhub.hub  # type: ignore[attr-defined]  # noqa: B018 - the access is the test


def test_plugins_that_are_not_asynchronous_do_not_load_asyncio() -> None:
    program = "import sys, shmhub; shmhub.PluginHost; print('asyncio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"
