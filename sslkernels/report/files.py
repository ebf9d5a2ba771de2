"""Writing results: all files of a report at once, or none."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sslkernels._files import replaced


class OutputError(OSError):
    """Why a folder cannot be written, in one line that names it."""


def writable(folder: str | os.PathLike[str], names: Sequence[str] = ()) -> None:
    """Prove that files of these names can be written to ``folder``, before time is spent on them.

    Raises:
        OutputError: they cannot.
    """
    out = Path(folder)
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".sslkernels-", dir=_home(out)))
        _no_folders(out, names)
    except OSError as error:
        raise _cannot(out, error) from error


@contextlib.contextmanager
def staged(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden folder on the way to ``folder`` for files to be written to.

    When the block ends, it becomes ``folder``, or its files replace those of the same names there;
    when it fails or is interrupted, it vanishes. Entering the block proves that ``folder`` can be
    written.

    Raises:
        OutputError: it cannot.
    """
    out = Path(folder)
    hidden = None
    try:
        home = _home(out)
        hidden = tempfile.mkdtemp(prefix=".sslkernels-", dir=home)
        stage = Path(hidden, "files")
        stage.mkdir()
        yield stage
        if home == out:
            _land(stage, out, Path(hidden, "before"))
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            os.rename(stage, out)
    except OSError as error:
        raise _cannot(out, error) from error
    finally:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)


def _land(stage: Path, out: Path, before: Path) -> None:
    """Move all files of ``stage`` to ``out``, or none: what was there is put back."""
    names = sorted(file.name for file in stage.iterdir())
    _no_folders(out, names)
    before.mkdir()
    for name in names:
        if os.path.lexists(out / name):
            shutil.copy2(out / name, before / name, follow_symlinks=False)
    landed: list[str] = []
    try:
        for name in names:
            os.replace(stage / name, out / name)
            landed.append(name)
    except BaseException:
        for name in landed:
            if os.path.lexists(before / name):
                os.replace(before / name, out / name)
            else:
                (out / name).unlink()
        raise


def _no_folders(out: Path, names: Sequence[str]) -> None:
    for name in names:
        if (out / name).is_dir() and not (out / name).is_symlink():
            raise OutputError(f"{out / name}: is a folder; a file of that name is to be written")


def _home(out: Path) -> Path:
    """The nearest folder above ``out`` that exists, or ``out`` itself."""
    home = out
    while not home.exists() and home != home.parent:
        home = home.parent
    if not home.is_dir():
        raise OutputError(f"{home}: is not a folder; results cannot be written to {out}")
    return home


def _cannot(out: Path, error: OSError) -> OutputError:
    if isinstance(error, OutputError):
        return error
    return OutputError(f"{out}: cannot be written: {error.strerror or error}")


def write_json(path: Path, content: Any) -> None:
    """:func:`dumps` to a file, replaced as a whole."""
    with replaced(path) as file:
        file.write(dumps(content) + "\n")


def dumps(content: Any) -> str:
    """Strict JSON: numbers that are not finite become null, lists of numbers stay on one line."""
    return _dumps(_plain(content))


def versions() -> dict[str, str]:
    """Versions that the numbers of a result may depend on."""
    from sslkernels import __version__

    return {
        "sslkernels": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _dumps(value: Any, indent: str = "") -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        items = [
            f"{deeper}{json.dumps(key)}: {_dumps(item, deeper)}" for key, item in value.items()
        ]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        items = [deeper + _dumps(item, deeper) for item in value]
        return "[\n" + ",\n".join(items) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False, ensure_ascii=False)
