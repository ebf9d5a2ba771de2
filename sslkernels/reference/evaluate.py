"""Every statistic at once, in float64 NumPy: what ``sslkernels.evaluate`` says as a tidy table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sslkernels.reference.alignment import alignment, uniformity
from sslkernels.reference.cdnv import cdnv
from sslkernels.reference.class_moments import ClassMoments, class_moments
from sslkernels.reference.directional_cdnv import directional_cdnv
from sslkernels.reference.few_shot import few_shot_ncc
from sslkernels.reference.ncc_scores import ncc_scores
from sslkernels.reference.neural_collapse import neural_collapse
from sslkernels.reference.normalized_std import normalized, normalized_std
from sslkernels.reference.spectrum import spectrum

Table = dict[tuple[str, str, str], Any]


def evaluate(
    z: Any,
    labels: Mapping[str, np.ndarray] | None = None,
    num_classes: Mapping[str, int] | None = None,
    *,
    superclasses: Mapping[str, np.ndarray] | None = None,
    z_test: Any = None,
    labels_test: Mapping[str, np.ndarray] | None = None,
    z_view: Any = None,
    weight: Mapping[str, np.ndarray] | None = None,
    bias: Mapping[str, np.ndarray] | None = None,
    top_k: Sequence[int] = (1, 5),
    few_shot: Sequence[int] = (),
    few_shot_repeats: int = 10,
    seed: int = 0,
    alpha_ranks: tuple[int, int] = (4, 100),
    normalize: bool = False,
    ignore_index: int = -100,
) -> Table:
    """``{(labeling, split, statistic): value}`` as ``Evaluation.rows`` names them.

    Arguments as those of the public function, of one set of embeddings [N, D]; labels, weights and
    so on by the name of the labeling. Uniformity is that of all rows, not of a sample.
    """
    labels, labels_test = dict(labels or {}), dict(labels_test or {})
    for name, parents in (superclasses or {}).items():
        first = next(iter(labels))
        for known in (labels, labels_test):
            if first in known:
                fine = known[first]
                used = fine != ignore_index
                known[name] = np.where(used, np.asarray(parents)[fine * used], ignore_index)
    z = np.asarray(z, np.float64)
    z_test = None if z_test is None else np.asarray(z_test, np.float64)
    if normalize:
        z, z_test = normalized(z), None if z_test is None else normalized(z_test)
    total = spectrum(z, alpha_ranks=alpha_ranks)
    out: Table = {
        ("", "train", "rows"): len(z),
        ("", "", "dim"): z.shape[1],
        ("", "train", "normalized_std"): normalized_std(z),
        ("", "train", "uniformity"): uniformity(z),
        ("", "train", "rankme"): total.rankme,
    }
    if z_test is not None:
        out["", "test", "rows"] = len(z_test)
    if z_view is not None:
        out["", "train", "alignment"] = alignment(z, z_view)
    shape = ("effective_rank", "participation_ratio", "stable_rank", "alpha")
    out |= {("", "train", name): getattr(total, name) for name in shape}
    for name, y in labels.items():
        y_test = labels_test.get(name)
        both = [y, *([y_test] if y_test is not None else [])]
        size = (num_classes or {}).get(name) or 1 + max(int(part.max(initial=0)) for part in both)
        w, b = (weight or {}).get(name), (bias or {}).get(name)
        m = class_moments(z, y, size, ignore_index=ignore_index)
        assert isinstance(m, ClassMoments)
        within = spectrum(z, y, size, alpha_ranks=alpha_ranks, ignore_index=ignore_index)
        nc = neural_collapse(z, y, size, weight=w, bias=b, ignore_index=ignore_index)
        train = {
            "non_empty_classes": (m.counts > 0).sum(),
            "cdnv": cdnv(m),
            "directional_cdnv": directional_cdnv(z, y, m, ignore_index=ignore_index),
            **{key: value for key, value in nc._asdict().items() if value is not None},
            **{f"within_{key}": getattr(within, key) for key in shape},
        }
        parts = {"train": (z, y, m), "test": (z_test, y_test, m.means)}
        for split, (rows, own, centers) in parts.items():
            if own is None:
                continue
            found = ncc_scores(rows, own, centers, top_k=top_k, ignore_index=ignore_index)
            for k, share in zip(top_k, found.top_k, strict=True):
                out[name, split, f"ncc_top{k}"] = share
            if split == "train":
                train["ncc_leave_one_out"] = found.leave_one_out
        for m_shots in few_shot:
            shots = few_shot_ncc(
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
