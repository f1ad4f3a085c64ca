"""What this package needs of others, and what to say when it is not there."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["need"]


def need(module: str, what: str, package: str = "'shmhub[testing]'") -> ModuleType:
    """That module.

    Raises:
        ImportError: it is not installed; says how it is.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(
            f"{what} needs {name}, which cannot be imported here ({error}): pip install {package}",
            name=name,
        ) from error
