"""Parquet files: embeddings in a column of float lists of equal length, labels in integer columns.

Row groups are decoded a chunk at a time; where a decoded batch is a chunk, its values are used
where pyarrow has put them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from sslkernels import _checks
from sslkernels.data.base import Shard
from sslkernels.data.errors import DataError, data_errors, missing
from sslkernels.data.files import Fingerprint, only

_BATCH = 1 << 17  # labels decoded at a time
_BUFFER = 1 << 20  # bytes of the file held; neither whole row groups nor a map of the file


class ParquetShard(Shard):
    """Embeddings [N, D] in one column of a file."""

    def __init__(self, path: str, column: str | None) -> None:
        self._seen = Fingerprint.of(path)
        with data_errors(path):
            self._inspect(_open(path), path, column)

    def _inspect(self, file: Any, path: str, column: str | None) -> None:
        import pyarrow.types as t

        schema = file.schema_arrow
        if column is None:
            column = only(
                [f.name for f in schema if _is_rows(f.type)], path, "column of float lists"
            )
        self._path, self._column = path, column
        self.name = f"{path}:{column}"
        self.rows = file.metadata.num_rows
        kind = _field(schema, path, column).type
        if not _is_rows(kind):
            raise DataError(
                f"{self.name}: embeddings are lists of float16, float32 or float64, got {kind}",
                rows=self.rows,
            )
        self.dtype = {"halffloat": torch.float16, "float": torch.float32}.get(
            str(kind.value_type), torch.float64
        )
        if self.rows == 0:
            raise DataError(f"{self.name}: no embeddings in 0 rows", rows=0)
        fixed = t.is_fixed_size_list(kind)
        self.dim = kind.list_size if fixed else self._length(file)
        if self.dim == 0:
            raise DataError(f"{self.name}: the lists are empty", rows=self.rows)

    def _length(self, file: Any) -> int:
        """The length of all lists, from the counts of each row group."""
        about = file.metadata
        paths = [about.schema.column(i).path for i in range(about.num_columns)]
        leaf = next(i for i, path in enumerate(paths) if path.startswith(self._column + "."))
        dim = None
        for g in range(about.num_row_groups):
            group = about.row_group(g)
            if group.num_rows == 0:
                continue
            each, rest = divmod(group.column(leaf).num_values, group.num_rows)
            dim = each if dim is None else dim
            if rest or each != dim:
                raise DataError(
                    f"{self.name}: lists of different lengths: row group {g} holds "
                    f"{group.column(leaf).num_values} values in {group.num_rows} rows",
                    rows=self.rows,
                )
        return dim or 0

    def read(self, cuts: Sequence[int]) -> Iterator[torch.Tensor]:
        sizes = [end - begin for begin, end in itertools.pairwise(cuts)]
        waiting: list[np.ndarray] = []  # rows decoded for the next chunk
        held = done = 0
        self._seen.check()
        for batch in _parsed(self._path, self._batches(cuts[0], cuts[-1], max(sizes, default=1))):
            while len(batch):
                part = batch[: sizes[done] - held]
                batch = batch[len(part) :]
                waiting.append(part)
                held += len(part)
                if held == sizes[done]:
                    rows = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
                    waiting, held, done = [], 0, done + 1
                    yield _checks.as_tensor(rows, self.name)
                    del rows
        self._seen.check()

    def _batches(self, begin: int, end: int, size: int) -> Iterator[np.ndarray]:
        """Rows ``begin:end`` as decoded, no row group before them read."""
        file = _open(self._path)
        groups: list[int] = []
        start = skip = 0
        for g in range(file.metadata.num_row_groups):
            stop = start + file.metadata.row_group(g).num_rows
            if start < end and stop > begin:
                skip = skip if groups else begin - start
                groups.append(g)
            start = stop
        row = begin - skip
        for batch in _decoded(file, groups, self._column, size):
            rows = self._matrix(batch, row)
            row += len(rows)
            rows = rows[skip : len(rows) - max(row - end, 0)]
            skip = max(skip - len(batch), 0)
            yield rows
            if row >= end:
                return
        if row < end:
            raise DataError(f"{self.name}: {row} rows, its footer says {self.rows}")

    def _matrix(self, column: Any, first: int) -> np.ndarray:
        """Lists as [n, D]; row ``first`` of the file is their first."""
        import pyarrow.types as t

        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(f"{self.name}: row {first + row} is null")
        if not t.is_fixed_size_list(column.type):
            lengths = np.diff(column.offsets.to_numpy())
            if (wrong := lengths != self.dim).any():
                row = int(wrong.argmax())
                raise DataError(
                    f"{self.name}: row {first + row} holds {lengths[row]} values, others {self.dim}"
                )
        values = column.flatten()
        if values.null_count:
            at = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(f"{self.name}: row {first + at // self.dim} holds a null")
        return values.to_numpy().reshape(-1, self.dim)

    def identity(self) -> dict[str, Any]:
        about = {"shape": [self.rows, self.dim], "dtype": str(self.dtype)[6:]}
        return {**self._seen.identity(), "name": self.name, **about}


class LabelColumn:
    """An integer column; its type and length are known from the footer."""

    def __init__(self, path: str, column: str | None) -> None:
        self._seen = Fingerprint.of(path)
        with data_errors(path):
            self._inspect(_open(path), path, column)

    def _inspect(self, file: Any, path: str, column: str | None) -> None:
        import pyarrow.types as t

        schema = file.schema_arrow
        if column is None:
            column = only([f.name for f in schema if t.is_integer(f.type)], path, "integer column")
        self._path, self._column = path, column
        self.name = f"{path}:{column}"
        self.shape: tuple[int, ...] = (file.metadata.num_rows,)
        kind = _field(schema, path, column).type
        if not t.is_integer(kind):
            raise DataError(f"{self.name}: labels are integers, got {kind}", rows=self.shape[0])

    def read(self) -> np.ndarray:
        self._seen.check()
        parts = list(_parsed(self._path, self._parts()))
        self._seen.check()
        labels = np.concatenate(parts) if parts else np.empty(0, np.int64)
        if labels.shape != self.shape:
            raise DataError(f"{self.name}: {len(labels)} rows, its footer says {self.shape[0]}")
        return labels

    def _parts(self) -> Iterator[np.ndarray]:
        file = _open(self._path)
        row = 0
        groups = list(range(file.metadata.num_row_groups))
        for batch in _decoded(file, groups, self._column, _BATCH):
            if batch.null_count:
                at = int(np.flatnonzero(batch.is_null().to_numpy(zero_copy_only=False))[0])
                raise DataError(f"{self.name}: row {row + at} is null")
            yield batch.to_numpy()
            row += len(batch)


def _open(path: str) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing("pyarrow", path) from error
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER)


def _parsed(path: str, parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """``parts``, whose making is behind the boundary; what becomes of them is not."""
    while True:
        with data_errors(path):
            part = next(parts, None)
        if part is None:
            return
        yield part
        del part


def _decoded(file: Any, groups: list[int], column: str, size: int) -> Iterator[Any]:
    for batch in file.iter_batches(size, row_groups=groups, columns=[column]):
        # A column of a struct may have the same path; those at the top have one name each.
        yield batch.column(column)


def _field(schema: Any, path: str, column: str) -> Any:
    """The column of that name, and no other that Parquet could take for it.

    Columns are read by their path: ``a.list.element`` may be the values of the lists ``a``, or
    a column by that name.
    """
    if column not in schema.names:
        some = ", ".join(schema.names[:8]) or "none"
        raise DataError(f"{path}: no column {column!r}; the columns are {some}")
    if schema.names.count(column) > 1:
        raise DataError(f"{path}: several columns have the name {column!r}")
    if twin := next((name for name in schema.names if name.startswith(f"{column}.")), None):
        raise DataError(f"{path}: the columns {column!r} and {twin!r} cannot be told apart")
    return schema.field(column)


def _is_rows(kind: Any) -> bool:
    import pyarrow.types as t

    lists = t.is_fixed_size_list(kind) or t.is_list(kind) or t.is_large_list(kind)
    return lists and t.is_floating(kind.value_type)
