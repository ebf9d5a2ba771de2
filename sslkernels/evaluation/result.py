"""What an evaluation says, as plain NumPy values, as a tidy table, as JSON and CSV."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sslkernels._files import replaced
from sslkernels._optional import needed
from sslkernels.evaluation import scalars

COLUMNS = ("embeddings", "labeling", "split", "statistic", "value")


@dataclass(frozen=True)
class NCC:
    """Nearest class-center accuracy on one set of rows.

    Attributes:
        counts: int64 [C], rows of each class.
        top_k: for each k the share of rows whose class is among the k nearest centers.
        per_class: float64 [C], the share of each class whose nearest center is its own; NaN for
            classes without rows.
        leave_one_out: the share of rows whose nearest center is that of their class when they are
            left out of its mean; None on test rows.
    """

    counts: np.ndarray
    top_k: dict[int, float]
    per_class: np.ndarray
    leave_one_out: float | None = None

    @property
    def accuracy(self) -> float:
        return self.top_k[1]


@dataclass(frozen=True)
class SpectrumResult:
    """As :class:`sslkernels.Spectrum`, in NumPy."""

    eigenvalues: np.ndarray
    rankme: float
    effective_rank: float
    participation_ratio: float
    stable_rank: float
    alpha: float


@dataclass(frozen=True)
class FewShotResult:
    """As :class:`sslkernels.FewShot`, in NumPy."""

    mean: float
    std: float
    accuracies: np.ndarray


class _Scalars:
    """Scalar statistics as attributes: ``result.cdnv`` is ``result.values["train", "cdnv"]``, or
    None if it was not measured. :mod:`sslkernels.evaluation.scalars` declares them."""

    values: scalars.Values

    def _declared(self) -> Sequence[scalars.Statistic]:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        for each in self._declared():
            if each.name == name:
                return self.values.get((each.split, name))
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted(
            {*super().__dir__(), *(s.name for s in self._declared() if "{" not in s.name)}
        )


@dataclass(frozen=True)
class LabelingResult(_Scalars):
    """One labeling of one set of embeddings.

    Attributes:
        cdnv: class-distance normalized variance.
        directional_cdnv: None if it was left out.
        nc1, nc2_norms, nc2_angles: as :class:`sslkernels.NeuralCollapse`.
        nc3, nc4: None without classifier weights.
        values: these and the shares of the other attributes, by split and name.
        variances: float64 [C], biased within-class variance; NaN for empty classes.
        cdnv_matrix: float64 [C, C] if it was asked for, NaN on the diagonal.
        within: the spectrum of the covariance within classes; None if it was left out.
        few_shot: by number of shots.
    """

    name: str
    values: scalars.Values
    variances: np.ndarray
    cdnv_matrix: np.ndarray | None
    train: NCC
    test: NCC | None
    within: SpectrumResult | None
    few_shot: dict[int, FewShotResult]

    def _declared(self) -> Sequence[scalars.Statistic]:
        return scalars.OF_LABELING

    @property
    def num_classes(self) -> int:
        return int(self.classes)

    @property
    def non_empty(self) -> int:
        return int(self.non_empty_classes)


@dataclass(frozen=True)
class EmbeddingsResult(_Scalars):
    """One set of embeddings: a layer, a checkpoint, or the only one.

    Attributes:
        rows, test_rows: rows read, bad ones included; dim: their columns.
        bad: by stage ``"train"`` and ``"test"``: how many rows with NaN or infinity were left out
            (``count``) and where the first of them are (``first``).
        skipped: shards that were left out, one line each.
        normalized_std: mean over dimensions of the standard deviation of unit rows.
        uniformity: of a sample of rows; None if it was left out.
        alignment: of two views; None without a second view.
        spectrum: of the covariance around the mean; None if it was left out.
        values: its numbers by split and name.
        labelings: by name.
    """

    name: str
    bad: dict[str, dict[str, Any]]
    skipped: list[str]
    spectrum: SpectrumResult | None
    values: scalars.Values
    labelings: dict[str, LabelingResult]

    def _declared(self) -> Sequence[scalars.Statistic]:
        return scalars.OF_EMBEDDINGS

    @property
    def test_rows(self) -> int:
        return int(self.values.get(("test", "rows"), 0))

    def __getitem__(self, labeling: str) -> LabelingResult:
        return self.labelings[labeling]


@dataclass(frozen=True)
class Evaluation:
    """Results of every set of embeddings by name (``""`` for the only one).

    ``evaluation["layer4"]["fine"].cdnv`` is one number; with one set of embeddings,
    ``evaluation["fine"].cdnv``. :meth:`rows` is everything as a tidy table.
    """

    embeddings: dict[str, EmbeddingsResult]
    settings: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        """A set of embeddings, or of the only one a labeling."""
        if name not in self.embeddings and list(self.embeddings) == [""]:
            return self.embeddings[""][name]
        return self.embeddings[name]

    def rows(self) -> list[dict[str, Any]]:
        """One dict for each number: ``embeddings, labeling, split, statistic, value``.

        ``labeling`` and ``split`` are empty where they mean nothing; numbers by class are left to
        the attributes.
        """
        return [
            dict(zip(COLUMNS, (result.name, labeling, *key, value), strict=True))
            for result in self.embeddings.values()
            for labeling, part in [("", result), *result.labelings.items()]
            for key, value in part.values.items()
        ]

    def _repr_html_(self) -> str:
        """The numbers of every labeling, for notebooks."""
        from sslkernels.report import page

        found = [(of.name, x) for of in self.embeddings.values() for x in of.labelings.values()]
        columns = scalars.columns(scalars.OF_LABELING, [x for _, x in found])
        rows = [(name, x.name, *(cell(x) for cell in columns.values())) for name, x in found]
        heads = [head.replace("-\n", "-").replace("\n", " ") for head in columns]
        return page.table(("embeddings", "labeling", *heads), rows)

    def to_pandas(self) -> Any:
        """:meth:`rows` as a ``pandas.DataFrame``; pandas must be installed."""
        pandas = needed("pandas", "pandas", "to_pandas")
        return pandas.DataFrame(self.rows(), columns=list(COLUMNS))

    def to_csv(self, path: Any) -> None:
        """:meth:`rows` as a CSV file, replaced as a whole; NaN is written ``nan``."""
        import csv

        with replaced(path) as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows())

    def to_json(self, path: Any) -> None:
        """:meth:`rows` as a JSON list of objects, replaced as a whole; NaN is written null."""
        plain = [
            {**row, "value": None if _lost(row["value"]) else row["value"]} for row in self.rows()
        ]
        with replaced(path) as file:
            file.write("[\n" + ",\n".join(json.dumps(row) for row in plain) + "\n]\n")


def _lost(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


# ---- to and from JSON, to the last bit -----------------------------------------------------------


def packed(value: Any) -> Any:
    """A result as JSON-able values that :func:`unpacked` restores exactly."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: packed(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"@": type(value).__name__, **fields}
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"@": "array", "dtype": str(value.dtype), "shape": list(value.shape), "data": data}
    if isinstance(value, dict):
        return {"@": "dict", "items": [[packed(k), packed(item)] for k, item in value.items()]}
    if isinstance(value, tuple):
        return {"@": "tuple", "items": [packed(item) for item in value]}
    if isinstance(value, list):
        return [packed(item) for item in value]
    return value


_CLASSES = (NCC, SpectrumResult, FewShotResult, LabelingResult, EmbeddingsResult)


def unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [unpacked(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value["@"]
    if kind == "array":
        flat = np.frombuffer(base64.b64decode(value["data"]), dtype=value["dtype"])
        return flat.reshape(value["shape"]).copy()
    if kind == "dict":
        return {unpacked(key): unpacked(item) for key, item in value["items"]}
    if kind == "tuple":
        return tuple(map(unpacked, value["items"]))
    fields = {key: unpacked(item) for key, item in value.items() if key != "@"}
    return next(c for c in _CLASSES if c.__name__ == kind)(**fields)
