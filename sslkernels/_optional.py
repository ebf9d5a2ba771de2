"""Libraries that only some functions need."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def needed(module: str, package: str, what: str) -> Any:
    """The module, or an ImportError that says what wants it and how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{what}: needs {package}: pip install {package}") from error
