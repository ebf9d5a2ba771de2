"""What an evaluation says, as plain NumPy values, as a tidy table, as JSON and CSV."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sslkernels._files import replaced
from sslkernels._optional import needed

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


@dataclass(frozen=True)
class LabelingResult:
    """One labeling of one set of embeddings.

    Attributes:
        variances: float64 [C], biased within-class variance; NaN for empty classes.
        cdnv_matrix: float64 [C, C] if it was asked for, NaN on the diagonal.
        directional_cdnv: None if it was left out.
        nc1, nc2_norms, nc2_angles: as :class:`sslkernels.NeuralCollapse`.
        nc3, nc4: None without classifier weights.
        within: the spectrum of the covariance within classes; None if it was left out.
        few_shot: by number of shots.
    """

    name: str
    num_classes: int
    variances: np.ndarray
    cdnv: float
    cdnv_matrix: np.ndarray | None
    directional_cdnv: float | None
    train: NCC
    test: NCC | None
    nc1: float
    nc2_norms: float
    nc2_angles: float
    nc3: float | None
    nc4: float | None
    within: SpectrumResult | None
    few_shot: dict[int, FewShotResult]

    @property
    def non_empty(self) -> int:
        return int((self.train.counts > 0).sum())


@dataclass(frozen=True)
class EmbeddingsResult:
    """One set of embeddings: a layer, a checkpoint, or the only one.

    Attributes:
        rows, test_rows: rows read, bad ones included.
        bad: by stage ``"train"`` and ``"test"``: how many rows with NaN or infinity were left out
            (``count``) and where the first of them are (``first``).
        skipped: shards that were left out, one line each.
        normalized_std: mean over dimensions of the standard deviation of unit rows.
        uniformity: of a sample of rows; None if it was left out.
        alignment: of two views; None without a second view.
        spectrum: of the covariance around the mean; None if it was left out.
        labelings: by name.
    """

    name: str
    rows: int
    dim: int
    test_rows: int
    bad: dict[str, dict[str, Any]]
    skipped: list[str]
    normalized_std: float
    uniformity: float | None
    alignment: float | None
    spectrum: SpectrumResult | None
    labelings: dict[str, LabelingResult]

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
            dict(zip(COLUMNS, (result.name, *row), strict=True))
            for result in self.embeddings.values()
            for row in _table(result)
        ]

    def _repr_html_(self) -> str:
        """The main numbers of every labeling, for notebooks."""
        from sslkernels.report import page

        columns = ("embeddings", "labeling", "classes", "CDNV", "directional CDNV", "NCC train")
        rows = [
            (
                *(result.name, x.name, x.num_classes, x.cdnv),
                math.nan if x.directional_cdnv is None else x.directional_cdnv,
                f"{100 * x.train.accuracy:.2f} %",
                "–" if x.test is None else f"{100 * x.test.accuracy:.2f} %",
                x.nc1,
            )
            for result in self.embeddings.values()
            for x in result.labelings.values()
        ]
        return page.table((*columns, "NCC test", "NC1"), rows)

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


Row = tuple[str, str, str, Any]


def _table(result: EmbeddingsResult) -> Iterator[Row]:
    yield "", "train", "rows", result.rows
    yield "", "", "dim", result.dim
    if result.test_rows:
        yield "", "test", "rows", result.test_rows
    for split, bad in result.bad.items():
        if bad["count"]:
            yield "", split, "bad_rows", bad["count"]
    yield "", "train", "normalized_std", result.normalized_std
    for name in ("uniformity", "alignment"):
        value = getattr(result, name)
        if value is not None:
            yield "", "train", name, value
    if result.spectrum is not None:
        yield from _spectrum("", "", result.spectrum)
    for name, labeling in result.labelings.items():
        yield from ((name, *row) for row in _labeling(labeling))


def _labeling(result: LabelingResult) -> Iterator[tuple[str, str, Any]]:
    yield "", "classes", result.num_classes
    yield "train", "non_empty_classes", result.non_empty
    for name in ("cdnv", "directional_cdnv", "nc1", "nc2_norms", "nc2_angles", "nc3", "nc4"):
        value = getattr(result, name)
        if value is not None:
            yield "train", name, value
    for split, ncc in (("train", result.train), ("test", result.test)):
        if ncc is None:
            continue
        for k, share in ncc.top_k.items():
            yield split, f"ncc_top{k}", share
        if ncc.leave_one_out is not None:
            yield split, "ncc_leave_one_out", ncc.leave_one_out
    for shots, few in result.few_shot.items():
        split = "train" if result.test is None else "test"
        yield split, f"ncc_{shots}_shot_mean", few.mean
        yield split, f"ncc_{shots}_shot_std", few.std
    if result.within is not None:
        yield from (row[1:] for row in _spectrum("", "within_", result.within))


def _spectrum(labeling: str, prefix: str, result: SpectrumResult) -> Iterator[Row]:
    names = ["effective_rank", "participation_ratio", "stable_rank", "alpha"]
    if not prefix:  # RankMe takes the embeddings as they are, whatever the labeling
        names.insert(0, "rankme")
    for name in names:
        yield labeling, "train", prefix + name, getattr(result, name)


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
        return {"@": "dict", "items": [[key, packed(item)] for key, item in value.items()]}
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
        return {key: unpacked(item) for key, item in value["items"]}
    fields = {key: unpacked(item) for key, item in value.items() if key != "@"}
    return next(c for c in _CLASSES if c.__name__ == kind)(**fields)
