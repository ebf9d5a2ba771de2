r"""The spectrum of embeddings and what is read from it: rank, dimension, decay.

With the singular values s of the N x D matrix of embeddings as they are, R = min(N, D) of them, and
the eigenvalues l of their covariance (around the mean, divisor N)::

    RankMe               exp(-sum p log p), p = s / sum(s) + 1e-7    Garrido et al., 2210.02885
    effective rank       exp(-sum q log q), q = sqrt(l) / sum(sqrt(l))      Roy, Vetterli, 2007
    participation ratio  (sum l)^2 / sum l^2
    stable rank          sum l / max l
    alpha-ReQ            l_r ~ r^-alpha, fitted to log l over log r    Agrawal et al., NeurIPS 2022

RankMe is defined without centering; a large common offset brings it near 1. The others are of the
covariance, and so is their within-class form, where the mean of each row's class is taken away. The
slope of alpha-ReQ is fitted as its authors do, by least squares with weights 1 / r over the ranks 4
to 100.

Precision. Eigenvalues come from the scatter matrix (D x D, or N x N when that is smaller) in
float64. They are right to about 1e-14 of the LARGEST, so singular values, their square roots, are
right to 1e-7 of the largest, not of their own size: below that they are noise. It moves p by 1e-7
at most and -p log p by 16 times that, so log(RankMe) by less than 2e-6 R: 0.4% at D = 2048 in the
worst case, a matrix that is numerically of rank one. With singular values within 1e6 of each other
nothing of the kind happens. alpha-ReQ leaves out eigenvalues below the noise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from sslkernels import _checks
from sslkernels._gate import gated
from sslkernels.statistics import _rows
from sslkernels.statistics._dense import eigenvalues
from sslkernels.statistics.class_moments import ClassMoments, class_moments
from sslkernels.statistics.pooled_scatter import PooledScatter, add_gram

_COLUMNS = 1024  # columns per step of the N x N side: N x 1024 in float64
_ALPHA_RANKS = (4, 100)


class Spectrum(NamedTuple):
    """float64 tensors (NumPy for NumPy input); NaN without rows.

    Attributes:
        eigenvalues: [min(N, D)] of the covariance (divisor N), descending, none negative.
        rankme: RankMe of the embeddings as they are, neither centered nor class by class.
        effective_rank: exponential of the entropy of the square roots of the eigenvalues.
        participation_ratio: (sum l)^2 / sum l^2.
        stable_rank: sum l / max l.
        alpha: decay exponent of the eigenvalues; NaN with fewer than two in the range.
    """

    eigenvalues: torch.Tensor
    rankme: torch.Tensor
    effective_rank: torch.Tensor
    participation_ratio: torch.Tensor
    stable_rank: torch.Tensor
    alpha: torch.Tensor


@gated
def spectrum(
    z: Any,
    labels: Any = None,
    num_classes: int | None = None,
    *,
    alpha_ranks: tuple[int, int] = _ALPHA_RANKS,
    ignore_index: int = -100,
) -> Spectrum:
    """Eigenvalues of the covariance of embeddings, total or within classes, and their summaries.

    Args:
        z: [N, D] embeddings, tensor or NumPy array: fp16, bf16, fp32 or fp64, any strides. Or a
            :class:`PooledScatter`, for data in batches: its own covariance is taken, within its
            classes; ``scatter.total()`` is the one around the common mean.
        labels: [N] integers for the within-class covariance; the total one without.
        num_classes: C, with labels.
        alpha_ranks: first and last rank, from 1, of the fit of alpha-ReQ.
        ignore_index: rows with this label are skipped.

    Raises:
        ValueError: wrong shape or device, or a label out of range, naming its first row and value.
        TypeError: wrong dtype.

    Memory: a D x D float64 matrix, or N x N when N < D.

    Example:
        >>> import torch, sslkernels as ssk
        >>> s = ssk.spectrum(torch.tensor([[3., 0.], [-3., 0.], [0., 1.], [0., -1.]]))
        >>> s.eigenvalues.tolist(), round(float(s.stable_rank), 4)
        ([4.5, 0.5], 1.1111)
    """
    low, high = (_checks.positive_int(r, "alpha_ranks") for r in alpha_ranks)
    if low >= high:
        raise ValueError(f"alpha_ranks: expected a first rank below the last, got {(low, high)}")
    if isinstance(z, PooledScatter):
        if labels is not None or num_classes is not None:
            raise ValueError("labels, num_classes: the scatter holds its own; leave them out")
        centered, raw = _from_scatter(z)
        return _summary(centered, _rankme(raw), z.num_rows, low, high)
    if (labels is None) != (num_classes is None):
        raise ValueError("labels, num_classes: go together")
    rows = _checks.embeddings(_checks.as_tensor(z, "z"), "z")
    size = 1 if num_classes is None else _checks.positive_int(num_classes, "num_classes")
    if labels is None:
        labels = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    rows, classes = _rows.checked(rows, labels, size, ignore_index)
    if len(rows) < rows.shape[1]:
        used = classes >= 0
        rows, classes = rows[used], classes[used]
        centered, raw = _from_rows(rows, classes, size)
    else:
        scatter = PooledScatter.empty(size, rows.shape[1], device=rows.device)
        centered, raw = _from_scatter(scatter.update(rows, classes, ignore_index=-1))
    count = int((classes >= 0).sum())
    return _rows.results(_summary(centered, _rankme(raw), count, low, high), z)


@gated
def rankme(singular_values: Any, *, eps: float = 1e-7) -> Any:
    """RankMe of singular values: ``exp(-sum p log p)``, ``p = s / sum(s) + eps``, float64 0-d (a
    NumPy scalar for a NumPy array).

    Example:
        >>> import torch, sslkernels as ssk
        >>> round(float(ssk.rankme(torch.ones(10))), 4)
        10.0
    """
    s = _checks.as_tensor(singular_values, "singular_values").double()
    p = s / s.sum() + eps
    return _rows.result(torch.exp(-(p * p.log()).sum()), singular_values)


@gated
def alpha_req(eigenvalues: Any, *, alpha_ranks: tuple[int, int] = _ALPHA_RANKS) -> Any:
    """The decay exponent of descending eigenvalues, float64 0-d (a NumPy scalar for a NumPy array):
    minus the slope of their logarithm over that of their rank, weights 1 / rank, over
    ``alpha_ranks`` as far as there are eigenvalues above rounding; NaN with fewer than two.

    Example:
        >>> import torch, sslkernels as ssk
        >>> round(float(ssk.alpha_req(torch.arange(1, 200) ** -1.5)), 6)
        1.5
    """
    low, high = alpha_ranks
    every = _checks.as_tensor(eigenvalues, "eigenvalues").double()
    values = every[:high]
    ranks = torch.arange(1, len(values) + 1, dtype=torch.float64, device=values.device)
    floor = len(every) * torch.finfo(torch.float64).eps * values.amax() if len(values) else 0
    used = (ranks >= low) & (values > floor)
    if int(used.sum()) < 2:
        return _rows.result(values.new_full((), torch.nan), eigenvalues)
    x, y, w = ranks[used].log(), values[used].log(), 1 / ranks[used]
    x = x - (w * x).sum() / w.sum()
    return _rows.result(-(w * x * y).sum() / (w * x * x).sum(), eigenvalues)


@gated
def spectrum_without_rankme(scatter: PooledScatter, alpha_ranks: tuple[int, int]) -> Spectrum:
    """:func:`spectrum` of a scatter for half its time; RankMe, which is of the rows however they
    are classed, is NaN."""
    values = eigenvalues(scatter.matrix)[: min(scatter.num_rows, scatter.moments.dim)]
    return _summary(values, values.new_full((), torch.nan), scatter.num_rows, *alpha_ranks)


def _from_scatter(scatter: PooledScatter) -> tuple[torch.Tensor, torch.Tensor]:
    """Descending eigenvalues of the scatter around the means and of Z^T Z, min(N, D) of each."""
    m, centered = scatter.moments, scatter.matrix
    filled = m.counts > 0
    raw = scatter._upper.clone()
    add_gram(raw, m.centers()[filled] * m.counts[filled].double().sqrt().unsqueeze(1))
    raw = raw.triu() + raw.triu(1).T
    kept = min(scatter.num_rows, m.dim)
    return eigenvalues(centered)[:kept], eigenvalues(raw)[:kept]


def _from_rows(
    rows: torch.Tensor, classes: torch.Tensor, num_classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from fewer rows than columns, by N x N matrices with the same eigenvalues."""
    n = len(rows)
    m = class_moments(rows, classes, num_classes)
    assert isinstance(m, ClassMoments)
    means = m.centers()
    centered, raw = means.new_zeros(n, n), means.new_zeros(n, n)
    for columns in torch.arange(rows.shape[1], device=rows.device).split(_COLUMNS):
        x = rows[:, columns].double()
        add_gram(raw, x.T)
        add_gram(centered, (x - means[:, columns][classes]).T)
    return tuple(eigenvalues(k.triu() + k.triu(1).T) for k in (centered, raw))  # type: ignore[return-value]


def _rankme(raw: torch.Tensor) -> torch.Tensor:
    """From the eigenvalues of Z^T Z."""
    return rankme(raw.sqrt()) if len(raw) else raw.new_full((), torch.nan)


def _summary(
    centered: torch.Tensor, rank: torch.Tensor, num_rows: int, low: int, high: int
) -> Spectrum:
    values = centered / num_rows
    roots = values.sqrt()
    q = roots / roots.sum()
    total = values.sum()
    largest = values.amax() if len(values) else total
    return Spectrum(
        values,
        rank,
        torch.exp(torch.special.entr(q).sum()) if len(q) else total * torch.nan,
        total.square() / values.square().sum(),
        total / largest,
        alpha_req(values, alpha_ranks=(low, high)),
    )
