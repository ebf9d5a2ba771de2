"""What ``evaluate`` should say, from the float64 references, as ``{(labeling, split, statistic):
value}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from sslkernels import reference
from sslkernels.reference.normalized_std import normalized

Table = dict[tuple[str, str, str], Any]


def expected(
    z: Any,
    labels: Mapping[str, np.ndarray] | None = None,
    z_test: Any = None,
    labels_test: Mapping[str, np.ndarray] | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    view: Any = None,
    classifiers: Mapping[str, tuple[Any, Any]] | None = None,
    top_k: Sequence[int] = (1, 5),
    few_shot: Sequence[int] = (),
    few_shot_repeats: int = 10,
    seed: int = 0,
    alpha_ranks: tuple[int, int] = (4, 100),
    normalize: bool = False,
    ignore_index: int = -100,
) -> Table:
    z = np.asarray(z, np.float64)
    z_test = None if z_test is None else np.asarray(z_test, np.float64)
    if normalize:
        z, z_test = normalized(z), None if z_test is None else normalized(z_test)
    total = reference.spectrum(z, alpha_ranks=alpha_ranks)
    out: Table = {
        ("", "train", "rows"): len(z),
        ("", "", "dim"): z.shape[1],
        ("", "train", "normalized_std"): reference.normalized_std(z),
        ("", "train", "uniformity"): reference.uniformity(z),
        ("", "train", "rankme"): total.rankme,
    }
    if z_test is not None:
        out["", "test", "rows"] = len(z_test)
    if view is not None:
        out["", "train", "alignment"] = reference.alignment(z, view)
    shape = ("effective_rank", "participation_ratio", "stable_rank", "alpha")
    out |= {("", "train", name): getattr(total, name) for name in shape}
    for name, y in (labels or {}).items():
        y_test = (labels_test or {}).get(name)
        known = [y, *([y_test] if y_test is not None else [])]
        size = (sizes or {}).get(name) or 1 + max(int(part.max(initial=0)) for part in known)
        weight, bias = (classifiers or {}).get(name, (None, None))
        m = reference.class_moments(z, y, size, ignore_index=ignore_index)
        assert isinstance(m, reference.ClassMoments)
        within = reference.spectrum(z, y, size, alpha_ranks=alpha_ranks, ignore_index=ignore_index)
        nc = reference.neural_collapse(
            z, y, size, weight=weight, bias=bias, ignore_index=ignore_index
        )
        train = {
            "non_empty_classes": (m.counts > 0).sum(),
            "cdnv": reference.cdnv(m),
            "directional_cdnv": reference.directional_cdnv(z, y, m, ignore_index=ignore_index),
            **{key: value for key, value in nc._asdict().items() if value is not None},
            **{f"within_{key}": getattr(within, key) for key in shape},
        }
        parts = {"train": (z, y, m), "test": (z_test, y_test, m.means)}
        for split, (rows, own, centers) in parts.items():
            if own is None:
                continue
            found = reference.ncc_scores(rows, own, centers, top_k=top_k, ignore_index=ignore_index)
            for k, share in zip(top_k, found.top_k, strict=True):
                out[name, split, f"ncc_top{k}"] = share
            if split == "train":
                train["ncc_leave_one_out"] = found.leave_one_out
        for m_shots in few_shot:
            shots = reference.few_shot_ncc(
                z,
                y,
                size,
                shots=m_shots,
                repeats=few_shot_repeats,
                seed=seed,
                z_test=None if y_test is None else z_test,
                labels_test=y_test,
                ignore_index=ignore_index,
            )
            split = "train" if y_test is None else "test"
            out[name, split, f"ncc_{m_shots}_shot_mean"] = shots.mean
            out[name, split, f"ncc_{m_shots}_shot_std"] = shots.std
        out[name, "", "classes"] = size
        out |= {(name, "train", key): value for key, value in train.items()}
    return out


def table(evaluation: Any, embeddings: str = "") -> Table:
    """The rows of one set of embeddings, of an Evaluation or of report.json."""
    rows = evaluation["rows"] if isinstance(evaluation, dict) else evaluation.rows()
    return {
        (row["labeling"], row["split"], row["statistic"]): (
            np.nan if row["value"] is None else row["value"]
        )
        for row in rows
        if row["embeddings"] == embeddings
    }


def assert_equal(found: Table, want: Table, *, rel: float = 2e-6, abs: float = 1e-9) -> None:
    assert found.keys() == want.keys(), found.keys() ^ want.keys()
    wrong = {
        key: (found[key], value)
        for key, value in want.items()
        if found[key] != pytest.approx(value, rel=rel, abs=abs, nan_ok=True)
    }
    assert not wrong
