"""From the sums of all readings to the result of one set of embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from sslkernels.evaluation import scalars
from sslkernels.evaluation.result import (
    NCC,
    EmbeddingsResult,
    FewShotResult,
    LabelingResult,
    SpectrumResult,
)
from sslkernels.evaluation.run import Measured, Reading
from sslkernels.evaluation.scalars import OfEmbeddings, OfLabeling
from sslkernels.evaluation.settings import Settings
from sslkernels.passes.selection import select
from sslkernels.statistics._dense import side_by_side
from sslkernels.statistics.cdnv import cdnv
from sslkernels.statistics.class_moments import ClassMoments
from sslkernels.statistics.ncc_scores import NCCScoresPass
from sslkernels.statistics.neural_collapse import neural_collapse
from sslkernels.statistics.pooled_scatter import PooledScatter
from sslkernels.statistics.spectrum import Spectrum, spectrum, spectrum_without_rankme


def finish(name: str, sums: Measured, how: Reading, skipped: list[str]) -> EmbeddingsResult:
    """The result, the same on every rank; the labelings are shared out among them."""
    second, settings, labelings, ranks = sums.second, how.settings, how.labelings, how.ranks
    total = second.total() if second.scattered else None

    def whole() -> Spectrum | None:
        if total is None or not settings.spectrum:
            return None
        return spectrum(total, alpha_ranks=settings.alpha_ranks)

    own = range(ranks.rank, len(labelings), ranks.size)
    tasks: list[tuple[int, Callable[[], Any]]] = [  # those that take longest first
        *((labelings[k].num_classes, partial(_labeling, k, sums, how, total)) for k in own),
        (0, whole),
    ]
    *mine, of_all = ranks.together(lambda: _done(tasks, second.everything))
    shares = ranks.gather(mine)
    results = [shares[k % ranks.size][k // ranks.size] for k in range(len(labelings))]
    whole_spectrum = None if of_all is None else _spectrum(of_all)
    of = OfEmbeddings(
        rows=sums.rows,
        test_rows=sums.test_rows,
        dim=second.everything.dim,
        bad=sums.bad,
        unit=sums.first.unit,
        sample=second.sample.rows if settings.uniformity_rows else None,
        alignment=sums.alignment,
        spectrum=whole_spectrum,
    )
    return EmbeddingsResult(
        name=name,
        bad=sums.bad,
        skipped=skipped,
        spectrum=whole_spectrum,
        values=scalars.measured(scalars.OF_EMBEDDINGS, of),
        labelings={
            result.name: _with_rankme(result, of_all) if second.complete(k) else result
            for k, result in enumerate(results)
        },
    )


def _done(tasks: Sequence[tuple[int, Callable[[], Any]]], rows: ClassMoments) -> list[Any]:
    """The results of tasks, given with the number of classes; beside each other on a CPU."""
    backend = select("cdnv_sum", rows._mean).__name__
    if rows.device.type != "cpu" or backend.endswith(".triton"):  # one interpreter, one kernel
        return [work() for _, work in tasks]
    return side_by_side([(max(size, rows.dim), work) for size, work in tasks])


def _labeling(k: int, sums: Measured, how: Reading, total: PooledScatter | None) -> LabelingResult:
    labels, settings = how.labelings[k], how.settings
    second, m = sums.second, sums.second.moments[k]
    weight, bias = how.classifiers.get(labels.name, (None, None))
    within = None
    if total is not None:
        scatter = second.within(k, total)
        if settings.spectrum:
            spectrum_of = spectrum_without_rankme if second.complete(k) else spectrum
            within = _spectrum(spectrum_of(scatter, alpha_ranks=settings.alpha_ranks))
        collapse = neural_collapse(scatter, weight=weight, bias=bias)
    else:
        collapse = second.collapse[k].compute()
    projections = second.projections[k]
    test = sums.test if labels.tested else None
    few_shot = second.few_shot if test is None else test.few_shot
    of = OfLabeling(
        num_classes=labels.num_classes,
        moments=m,
        collapse=collapse,
        nc4=second.disagreements[k].compute() if k in second.disagreements else None,
        directional=None if projections.directional is None else projections.directional.compute(),
        train=_ncc(projections.scores, settings),
        test=None if test is None else _ncc(test.scores[k], settings),
        within=within,
        few_shot={
            shots: FewShotResult(float(few.mean), float(few.std), _array(few.accuracies))
            for shots, few in few_shot.results(k).items()
        },
    )
    keep_matrix = labels.num_classes <= settings.cdnv_matrix
    return LabelingResult(
        name=labels.name,
        values=scalars.measured(scalars.OF_LABELING, of),
        variances=_array(m.variances),
        cdnv_matrix=_array(cdnv(m, reduction="none")) if keep_matrix else None,
        train=of.train,
        test=of.test,
        within=within,
        few_shot=dict(of.few_shot),
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


def _with_rankme(result: LabelingResult, whole: Spectrum | None) -> LabelingResult:
    """RankMe within classes is that of all rows, where all are in a class."""
    if whole is None or result.within is None:
        return result
    return replace(result, within=replace(result.within, rankme=float(whole.rankme)))


def _spectrum(found: Spectrum) -> SpectrumResult:
    return SpectrumResult(_array(found.eigenvalues), *map(float, found[1:]))


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy().copy()
