"""Values of the form ``[NAME=]PATH``."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from sslkernels.cli.console import OptionError
from sslkernels.data.files import split_key

_NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)


def split(value: str) -> tuple[str | None, str]:
    """``(name, path)``; the name of an existing file may hold "="."""
    match = None if os.path.exists(split_key(value)[0]) else _NAMED.fullmatch(value)
    return (match[1], match[2]) if match else (None, value)


def by_name(option: str, values: Sequence[str], unnamed: str) -> dict[str, str]:
    """``{name: path}``; a value without a name is called ``unnamed``."""
    paths: dict[str, str] = {}
    for value in values:
        name, path = split(value)
        name = unnamed if name is None else name
        if name in paths:
            raise OptionError(
                f"{option}: the name {name!r} is given twice; write {option} NAME={path}"
            )
        paths[name] = path
    return paths


def embeddings(values: Sequence[str]) -> dict[str, str]:
    """Embeddings by name: ``""`` for the only one without a name, else that of its file or key."""
    given = [split(value) for value in values]
    if len(given) == 1 and given[0][0] is None:
        return {"": given[0][1]}
    paths: dict[str, str] = {}
    for name, path in given:
        if name is None:
            file, key = split_key(path)
            name = key or Path(file).stem
        if name in paths:
            raise OptionError(f"TRAIN: the name {name!r} is given twice; write NAME={path}")
        paths[name] = path
    return paths


def matched(option: str, values: Sequence[str], trains: Sequence[str]) -> dict[str, str]:
    """What belongs to each of ``trains``: by name, or without names in their order."""
    if not values:
        return {}
    given = [split(value) for value in values]
    names = [name for name, _ in given]
    if not any(names):
        if len(given) != len(trains):
            raise OptionError(
                f"{option}: given {len(given)} times for {len(trains)} TRAIN; takes one for each"
            )
        return dict(zip(trains, (path for _, path in given), strict=True))
    paths = by_name(option, values, "")
    for name in [*paths, *trains]:
        if name not in trains or name not in paths:
            listed = ", ".join(map(repr, trains))
            raise OptionError(
                f"{option}: expected one for each TRAIN, {option} NAME=PATH, names {listed}; "
                f"got {', '.join(map(repr, paths))}"
            )
    return paths
