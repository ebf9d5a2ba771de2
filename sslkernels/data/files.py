"""Names of files: ``PATH``, ``PATH:KEY``, folders and patterns of numbered shards."""

from __future__ import annotations

import contextlib
import errno
import glob
import itertools
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from sslkernels.data.errors import DataError, data_errors

SUFFIXES = (".npy", ".parquet", ".safetensors", ".pt", ".pth")
_NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d+)(?P<rest>(-of-\d+)?\.\w+)", re.DOTALL)
_EMBEDDINGS, _METADATA = "img_emb", "metadata"  # the folders that clip-retrieval writes


class Member(NamedTuple):
    """One file of several."""

    path: str
    number: int | None = None  # 12 of img_emb_12.npy


def split_key(path: str) -> tuple[str, str | None]:
    """``(path, key)`` of ``PATH`` or ``PATH:KEY``; the name of an existing file may hold ":"."""
    head, colon, key = path.rpartition(":")
    if not colon or os.path.exists(path) or not head or not key or "/" in key:
        return path, None
    return head, key


def embedding_files(path: str) -> list[Member] | None:
    """The shards of a folder or pattern, in natural order; None for the path of one file."""
    inner = os.path.join(path, _EMBEDDINGS)
    return _files(inner if os.path.isdir(inner) else path, SUFFIXES)


def label_files(path: str, key: str | None) -> list[Member] | None:
    """Like :func:`embedding_files`; of clip-retrieval's folders, those with the metadata."""
    if key is not None and os.path.isdir(path):
        for folder in (path, os.path.dirname(os.path.abspath(path))):
            inner = os.path.join(folder, _METADATA)
            if os.path.isdir(inner) and (folder == path or not _holds(path, ".parquet")):
                return _files(inner, (".parquet",))
        if _holds(path, ".parquet"):
            return _files(path, (".parquet",))
    return _files(path, SUFFIXES)


def numbered(paths: Sequence[str]) -> list[Member]:
    """Files in the order given, with their numbers if all have different ones."""
    found = [_NUMBERED.fullmatch(os.path.basename(path)) for path in paths]
    numbers = [int(match["number"]) if match else None for match in found]
    if None in numbers or len(set(numbers)) < len(numbers):
        numbers = [None] * len(numbers)
    return [Member(path, number) for path, number in zip(paths, numbers, strict=True)]


def only(found: list[str], path: str, what: str) -> str:
    """The one key that will do where none is given."""
    if len(found) != 1:
        which = f"several ({', '.join(found[:5])})" if found else "none"
        raise DataError(f"{path}: needs {path}:KEY, or one {what} in the file; it holds {which}")
    return found[0]


class Fingerprint(NamedTuple):
    """What changes when a file is written again, or when another takes its place."""

    path: str
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str) -> Fingerprint:
        """That of the file now.

        Raises:
            DataError: there is none, or it is no regular file (a pipe would be waited for).
        """
        with data_errors(path):
            found = os.stat(path)
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            if not stat.S_ISREG(found.st_mode):
                raise DataError(f"{path}: is not a regular file")
            return cls(path, found.st_size, found.st_mtime_ns, found.st_ino)

    def check(self) -> None:
        """Raise a DataError if it is not the same file any more."""
        now = Fingerprint.of(self.path)
        if now != self:
            sizes = f"{self.size} bytes, now {now.size}" if now.size != self.size else "same size"
            raise DataError(
                f"{self.path}: has changed since it was opened ({sizes}); "
                "every reading needs the same rows"
            )

    def identity(self) -> dict[str, Any]:
        """What a resumed run compares. A copy of the file elsewhere has another inode."""
        path = os.path.abspath(self.path)
        return {"path": path, "size": self.size, "mtime_ns": self.mtime_ns}


@contextlib.contextmanager
def opened(path: str, seen: Fingerprint | None = None) -> Iterator[tuple[BinaryIO, Fingerprint]]:
    """A file to read, and its fingerprint, which is the same before and after.

    Raises:
        DataError: it cannot be opened, or it is not what was ``seen`` of it earlier.
    """
    if seen is None:
        seen = Fingerprint.of(path)
    with data_errors(path):
        handle = open(path, "rb")  # noqa: SIM115
    with handle:
        seen.check()
        yield handle, seen
        seen.check()


def _files(path: str, suffixes: Sequence[str]) -> list[Member] | None:
    if os.path.isdir(path):
        return _folder(path, suffixes)
    if glob.has_magic(path) and not os.path.exists(path):
        if not (paths := glob.glob(path)):
            raise DataError(f"{path}: no such files")
        return numbered(sorted(paths, key=_natural))
    return None


def _folder(path: str, suffixes: Sequence[str]) -> list[Member]:
    """The one series of shards in a folder."""
    names = [name for name in _listed(path) if not name.startswith(".")]
    names = sorted((name for name in names if name.endswith(tuple(suffixes))), key=_natural)
    if not names:
        raise DataError(f"{path}: the folder holds no {', '.join(suffixes)} files")
    series: dict[str, list[Member]] = defaultdict(list)
    for name in names:
        match = _NUMBERED.fullmatch(name)
        number = int(match["number"]) if match else None
        pattern = f"{match['stem']}*{match['rest']}" if match else name
        series[pattern].append(Member(os.path.join(path, name), number))
    if len(series) > 1 and all(name.endswith(".parquet") for name in names):
        return numbered([os.path.join(path, name) for name in names])  # part-00000-UUID.c000 ...
    if len(series) > 1:
        some = ", ".join(sorted(series)[:4])
        raise DataError(f"{path}: the folder holds several series of shards ({some}); name one")
    (members,) = series.values()
    for before, after in itertools.pairwise(members):
        if before.number == after.number:
            raise DataError(f"{after.path}: has the number of {os.path.basename(before.path)}")
    return members


def _holds(path: str, suffix: str) -> bool:
    return any(name.endswith(suffix) for name in _listed(path))


def _listed(folder: str) -> list[str]:
    with data_errors(folder):
        return os.listdir(folder)


def _natural(name: str) -> list[tuple[int, str]]:
    """``img_emb_2`` before ``img_emb_10``."""
    parts = re.split(r"(\d+)", name)
    return [(int(part) if part.isdecimal() else 0, part) for part in parts]
