"""Names of files: ``PATH``, ``PATH:KEY``, series of numbered shards."""

from __future__ import annotations

import os
from typing import Any

from sslkernels.data.errors import DataError


def split_key(path: str) -> tuple[str, str | None]:
    """``(path, key)`` of ``PATH`` or ``PATH:KEY``; the name of an existing file may hold ":"."""
    head, colon, key = path.rpartition(":")
    if not colon or os.path.exists(path) or not head or not key or "/" in key:
        return path, None
    return head, key


def fingerprint(path: str) -> dict[str, Any]:
    """What changes when a file is written again."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    return {"path": path, "size": found.st_size, "mtime_ns": found.st_mtime_ns}
