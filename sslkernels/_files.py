"""Files that are replaced as a whole: what was there stays until all of the new is on the disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """A file on the way to ``path``: renamed when the block ends, removed when it fails.

    It has one name, ``.NAME.part``: what a killed process has left there, the next one replaces.

    Args:
        path: of the file to write or replace.
        mode: ``"w"`` for text in UTF-8, ``"wb"`` for bytes. Lone surrogates, which stand in the
            names of files that are not UTF-8, are written ``\\udc80``, as JSON has them.
    """
    target = Path(path)
    hidden = target.with_name(f".{target.name}.part")
    hidden.unlink(missing_ok=True)
    try:
        # "x": never through a link that somebody else has put there.
        text = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace"}
        with open(hidden, mode.replace("w", "x"), **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, target)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
