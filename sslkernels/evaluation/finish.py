"""From the sums of all readings to the result of one set of embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sslkernels.evaluation.labelings import Labeling
from sslkernels.evaluation.ranks import Ranks
from sslkernels.evaluation.result import (
    NCC,
    EmbeddingsResult,
    FewShotResult,
    LabelingResult,
    SpectrumResult,
)
from sslkernels.evaluation.run import Measured
from sslkernels.evaluation.settings import Settings
from sslkernels.statistics.alignment import uniformity
from sslkernels.statistics.cdnv import cdnv
from sslkernels.statistics.ncc_scores import NCCScoresPass
from sslkernels.statistics.neural_collapse import neural_collapse
from sslkernels.statistics.pooled_scatter import PooledScatter
from sslkernels.statistics.spectrum import Spectrum, spectrum, within_spectrum


def finish(
    name: str,
    sums: Measured,
    labelings: Sequence[Labeling],
    settings: Settings,
    classifiers: Mapping[str, tuple[Any, Any]],
    *,
    skipped: list[str],
    cdnv_matrix: int,
    ranks: Ranks,
) -> EmbeddingsResult:
    """The result, the same on every rank; the labelings are shared out among them."""
    second = sums.second
    total, whole = None, None
    if settings.spectrum:
        total = second.total()
        whole = spectrum(total, alpha_ranks=settings.alpha_ranks)

    def own() -> dict[str, LabelingResult]:
        return {
            item.name: _labeling(k, item, sums, total, whole, settings, classifiers, cdnv_matrix)
            for k, item in enumerate(labelings)
            if k % ranks.size == ranks.rank
        }

    shares = ranks.gather(ranks.together(own))
    results = {
        labels.name: shares[k % ranks.size][labels.name] for k, labels in enumerate(labelings)
    }
    return EmbeddingsResult(
        name=name,
        rows=sums.rows,
        dim=second.everything.dim,
        test_rows=sums.test_rows,
        bad=sums.bad,
        skipped=skipped,
        normalized_std=float(sums.first.unit.std),
        uniformity=float(uniformity(second.sample.rows)) if settings.uniformity_rows else None,
        alignment=sums.alignment,
        spectrum=None if whole is None else _spectrum(whole),
        labelings=results,
    )


def _labeling(
    k: int,
    labels: Labeling,
    sums: Measured,
    total: PooledScatter | None,
    whole: Spectrum | None,
    settings: Settings,
    classifiers: Mapping[str, tuple[Any, Any]],
    cdnv_matrix: int,
) -> LabelingResult:
    second, m = sums.second, sums.second.moments[k]
    weight, bias = classifiers.get(labels.name, (None, None))
    within = None
    if total is not None and whole is not None:
        scatter = second.within(k, total)
        same_rows = scatter.num_rows == total.num_rows
        within = _spectrum(
            within_spectrum(scatter, whole.rankme, settings.alpha_ranks)
            if same_rows
            else spectrum(scatter, alpha_ranks=settings.alpha_ranks)
        )
        collapse = neural_collapse(scatter, weight=weight, bias=bias)
    else:
        collapse = second.collapse[k].compute()
    assert collapse.nc1 is not None  # it is of class moments alone
    nc4 = second.disagreements[k].compute() if k in second.disagreements else None
    test = sums.test if labels.tested else None
    few_shot = second.few_shot if test is None else test.few_shot
    return LabelingResult(
        name=labels.name,
        num_classes=labels.num_classes,
        variances=_array(m.variances),
        cdnv=float(cdnv(m)),
        cdnv_matrix=(
            _array(cdnv(m, reduction="none")) if labels.num_classes <= cdnv_matrix else None
        ),
        directional_cdnv=float(second.directional[k].compute()) if second.directional else None,
        train=_ncc(second.scores[k], settings),
        test=None if test is None else _ncc(test.scores[k], settings),
        nc1=float(collapse.nc1),
        nc2_norms=float(collapse.nc2_norms),
        nc2_angles=float(collapse.nc2_angles),
        nc3=None if collapse.nc3 is None else float(collapse.nc3),
        nc4=None if nc4 is None else float(nc4),
        within=within,
        few_shot={
            shots: FewShotResult(float(few.mean), float(few.std), _array(few.accuracies))
            for shots, few in few_shot.results(k).items()
        },
    )


def _ncc(scores: NCCScoresPass, settings: Settings) -> NCC:
    found = scores.compute()
    left_out = found.leave_one_out
    return NCC(
        _array(scores.rows),
        {k: float(share) for k, share in zip(settings.top_k, found.top_k, strict=True)},
        _array(found.per_class),
        None if left_out is None else float(left_out),
    )


def _spectrum(found: Spectrum) -> SpectrumResult:
    return SpectrumResult(_array(found.eigenvalues), *map(float, found[1:]))


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy().copy()
