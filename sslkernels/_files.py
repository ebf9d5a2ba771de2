"""Files that are replaced as a whole: what was there stays until all of the new is on the disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """A file on the way to ``path``: renamed when the block ends, removed when it fails.

    Args:
        path: of the file to write or replace.
        mode: ``"w"`` for text in UTF-8, ``"wb"`` for bytes.
    """
    target = Path(path)
    handle, hidden = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(hidden, 0o666 & ~_umask())
        os.replace(hidden, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
