r"""Neural collapse: NC1 to NC4.

Papyan, Han, Donoho, "Prevalence of neural collapse during the terminal phase of deep learning
training" (PNAS 2020). With ``mu_G`` the unweighted mean of the C class means and M [C, D] the rows
``mu_c - mu_G``::

    Sigma_W = mean over rows of (z - mu_c) (z - mu_c)^T        Sigma_B = M^T M / C

    NC1 = tr(Sigma_W Sigma_B^+) / C                   variability within classes vanishes
    NC2 = std / mean of ||mu_c - mu_G||               class means of equal length
          mean over c != c' of |cos + 1 / (C - 1)|    ... and at equal, largest angles
    NC3 = || W / ||W||_F - M / ||M||_F ||_F^2         the classifier W [C, D] aligns with them
    NC4 = share of rows on which the classifier and the nearest class center disagree

The standard deviation is that of the C lengths themselves (divisor C). The authors' notebook prints
NC1 without 1/C and divides by C - 1 in the standard deviation: multiply by C, and the length's
figure by sqrt(C / (C - 1)), to compare. C counts the non-empty classes.

Sigma_B has rank C - 1 at most. With the singular values s_k and right singular vectors v_k of M,
``Sigma_B^+ = sum_k (C / s_k^2) v_k v_k^T``, hence::

    NC1 = sum_k (v_k^T Sigma_W v_k) / s_k^2

(the divisor C of Sigma_B cancels that of NC1). This takes either the sums of
``((z - mu_c) . v_k)^2`` from a second pass over the rows (N D C operations, C numbers of state), or
the pooled scatter matrix when it is known. Neither a D x D pseudo-inverse nor the covariance of any
single class is formed.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch

from sslkernels import _checks
from sslkernels._gate import gated
from sslkernels.passes.mean_pairs import cosine_gap_sum
from sslkernels.passes.nearest_center import nearest_center
from sslkernels.statistics import _rows
from sslkernels.statistics._dense import threads_for
from sslkernels.statistics._sums import Sums, class_moments_of
from sslkernels.statistics.class_moments import ClassMoments, class_moments
from sslkernels.statistics.pooled_scatter import PooledScatter

# Directions with less than this share of the largest eigenvalue of Sigma_B are rounding, not
# geometry: about what a float64 pseudo-inverse of a 4096 x 4096 matrix leaves out.
_RANK = 1e-12


class NeuralCollapse(NamedTuple):
    """float64 0-d tensors (NumPy scalars for NumPy input); NaN with fewer than two classes.

    Attributes:
        nc1: tr(Sigma_W Sigma_B^+) / C; NaN when all class means coincide; None for class moments
            alone.
        nc2_norms: std / mean of the lengths of the centered class means.
        nc2_angles: mean of |cos + 1 / (C - 1)| over pairs of centered class means; NaN when one of
            them is zero.
        nc3: || W / ||W|| - M / ||M|| ||^2 over the non-empty classes; None without a classifier.
        nc4: share of rows where classifier and nearest class center disagree, rows with NaN or
            infinity included; None without a classifier or without a pass over the rows.
    """

    nc1: torch.Tensor | None
    nc2_norms: torch.Tensor
    nc2_angles: torch.Tensor
    nc3: torch.Tensor | None = None
    nc4: torch.Tensor | None = None


@gated
def neural_collapse(
    z: Any,
    labels: Any = None,
    num_classes: int | None = None,
    *,
    weight: Any = None,
    bias: Any = None,
    ignore_index: int = -100,
) -> NeuralCollapse:
    """NC1 to NC4 of labelled embeddings, in two passes over them.

    Args:
        z: [N, D] embeddings, tensor or NumPy array: fp16, bf16, fp32 or fp64, any strides. Or a
            :class:`PooledScatter`, which needs no labels and gives everything but NC4, or
            :class:`ClassMoments`, which gives NC2 and NC3 alone.
        labels: [N] integers in ``[0, num_classes)`` or ``ignore_index``.
        num_classes: C.
        weight: [C, D] of the linear classifier on z, for NC3 and NC4.
        bias: [C] of the classifier, for NC4; zero if left out.
        ignore_index: rows with this label are skipped.

    Raises:
        ValueError: wrong shape or device, or a label out of range, naming its first row and value.
        TypeError: wrong dtype.

    For data that comes in batches use :class:`NeuralCollapsePass` or :class:`PooledScatter`.

    Example:
        >>> import torch, sslkernels as ssk
        >>> z = torch.tensor([[1., .1], [1., -.1], [-.5, .8], [-.5, .9], [-.6, -.8], [-.4, -.9]])
        >>> labels = torch.tensor([0, 0, 1, 1, 2, 2])
        >>> nc = ssk.neural_collapse(z, labels, 3, weight=z[::2])
        >>> round(float(nc.nc1), 4), float(nc.nc4)
        (0.0057, 0.0)
    """
    if isinstance(z, (PooledScatter, ClassMoments)):
        if labels is not None or num_classes is not None:
            raise ValueError("labels, num_classes: z holds its own; leave them out")
        if isinstance(z, ClassMoments):
            between = _Between(z)
            return _finish(between, None, _classifier(z, weight, bias))
        classifier = _classifier(z.moments, weight, bias)
        between = _Between(z.moments)
        return _finish(between, _nc1(between, z), classifier)
    if labels is None or num_classes is None:
        raise ValueError("labels, num_classes: needed with embeddings")
    num_classes = _checks.positive_int(num_classes, "num_classes")
    rows, classes = _rows.checked(z, labels, num_classes, ignore_index)
    m = class_moments(rows, classes, num_classes, ignore_index=-1)
    assert isinstance(m, ClassMoments)
    second = NeuralCollapsePass(m, weight=weight, bias=bias).update(rows, classes, ignore_index=-1)
    return _rows.results(second.compute(), z)


@gated
class NeuralCollapsePass(Sums):
    """NC1 to NC4 from a second pass, in batches, over the rows whose class moments are known.

    State: C + 1 sums. Passes over disjoint rows merge (``merge``, ``all_reduce``), save and load.

    Args:
        m: the :class:`ClassMoments` of all the rows.
        weight, bias: as in :func:`neural_collapse`.

    Example:
        >>> import torch, sslkernels as ssk
        >>> z, labels = torch.randn(90, 8), torch.arange(90) % 3
        >>> second = ssk.NeuralCollapsePass(ssk.class_moments(z, labels, 3))
        >>> for batch in range(0, 90, 30):
        ...     rows = slice(batch, batch + 30)
        ...     second = second.update(z[rows], labels[rows])
        >>> torch.allclose(second.compute().nc1, ssk.neural_collapse(z, labels, 3).nc1)
        True
    """

    def __init__(self, m: ClassMoments, *, weight: Any = None, bias: Any = None) -> None:
        self.moments = class_moments_of(m)
        self._between = _Between(m)
        self._classifier = _classifier(m, weight, bias)
        self._nc4 = None if weight is None else Disagreements(m, weight, bias)
        super().__init__(
            rows=torch.zeros((), dtype=torch.int64, device=m.device),
            along=torch.zeros_like(self._between.directions[0]),
            **(self._nc4._sums if self._nc4 is not None else {}),
        )
        self._centers = m.centers()

    def update(self, z: Any, labels: Any, *, ignore_index: int = -100) -> NeuralCollapsePass:
        """Add a batch of the same rows that the moments were made of, and return ``self``.

        Arguments and errors as :meth:`ClassMoments.update`.
        """
        rows, classes = _rows.checked(z, labels, self.moments.num_classes, ignore_index)
        _rows.fits(rows, self.moments.dim, self.moments.device)
        # Of unit vectors with differences that float64 took: products in float32 cancel nothing.
        dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        basis = self._between.directions[1].to(dtype)
        for x, c in _rows.blocks(rows, classes):
            self._sums["along"] += _squared_projections(x - self._centers[c], basis)
        self._sums["rows"] += (classes >= 0).sum()
        if self._nc4 is not None:
            self._nc4.update(rows, classes)
        return self

    def compute(self) -> NeuralCollapse:
        """The result; a ValueError unless every row of the moments has been seen once."""
        seen, known = int(self._sums["rows"]), int(self.moments.counts.sum())
        if seen != known:
            raise ValueError(f"update: has seen {seen} labelled rows, the moments hold {known}")
        nc1 = self._between.nc1(self._sums["along"])
        found = _finish(self._between, nc1, self._classifier)
        return found if self._nc4 is None else found._replace(nc4=self._nc4.compute())


@gated
class Disagreements(Sums):
    """NC4: rows on which a linear classifier and the nearest class center disagree.

    Args:
        m: the class moments whose means are the centers.
        weight, bias: as in :func:`neural_collapse`.
    """

    def __init__(self, m: ClassMoments, weight: Any, bias: Any = None) -> None:
        classifier = _classifier(m, weight, bias)
        assert classifier is not None
        self._weight, self._bias = classifier
        self._centers = m.centers()
        super().__init__(
            asked=torch.zeros((), dtype=torch.int64, device=m.device),
            disagree=torch.zeros((), dtype=torch.int64, device=m.device),
        )

    def update(self, rows: torch.Tensor, classes: torch.Tensor) -> None:
        """Add rows [n, D]; ``classes`` [n] is -1 for those that count nowhere."""
        nearest = nearest_center(rows, self._centers, True)
        predicted = torch.cat(
            [
                torch.addmm(self._bias, x.double(), self._weight.T).argmax(1)
                for x in rows.split(_rows.BLOCK)
            ]
            or [classes]
        )
        # A row that is not finite has no nearest center, -1, and so disagrees.
        self._sums["disagree"] += ((nearest != predicted) & (classes >= 0)).sum()
        self._sums["asked"] += (classes >= 0).sum()

    def compute(self) -> torch.Tensor:
        """The share, float64 0-d; NaN without rows."""
        return self._sums["disagree"] / self._sums["asked"].double()


class _Between:
    """The centered class means M of the non-empty classes and the directions that they span."""

    def __init__(self, m: ClassMoments) -> None:
        self.num_rows = m.counts.sum()  # first: this is where a device's bad label is reported
        self.moments = m
        self.filled = (m.counts > 0).nonzero().squeeze(1)
        means = m.centers()[self.filled]
        self.means = means - means.mean(0) if len(means) else means
        # Singular values up to this may come from the rounding of the means.
        largest = means.abs().max() if len(means) else means.new_zeros(())
        self.rounding = torch.finfo(means.dtype).eps * largest * len(means)

    @functools.cached_property
    def directions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The singular values s [K] of M and their right singular vectors [K, D], K its rank."""
        size, dim = self.means.shape
        if size < 2 or not self.means.isfinite().all():
            return self.means.new_empty(0), self.means.new_empty(0, dim)
        with threads_for(dim):
            _, s, v = torch.linalg.svd(self.means, full_matrices=False)
        kept = s.square() > _RANK * s[0].square()
        kept &= s > self.rounding
        kept[size - 1 :] = False  # the rows of M add up to zero
        return s[kept], v[kept]

    def nc1(self, along: torch.Tensor) -> torch.Tensor:
        """From the sums along the directions, float64 [K]."""
        s, _ = self.directions
        if not len(s):
            return self.means.new_full((), torch.nan)
        return (along / s.square()).sum() / self.num_rows


def _nc1(between: _Between, scatter: PooledScatter) -> torch.Tensor:
    """NC1 from the pooled scatter, by a QR factorisation where M has full rank.

    With A the C - 1 rows that a reflection leaves of M, ``A^T A = M^T M``::

        A^T = Q R     (M^T M)^+ = S^T S    S = R^-1 Q^T
        A = Q R       (M^T M)^+ = S^T S    S = R^-T          for C > D

    and NC1 = tr(S W S^T) / N. Exact as the singular value decomposition, in half the time.
    """
    means, w = between.means, scatter.matrix
    size, dim = means.shape
    if size > 1 and means.isfinite().all() and w.isfinite().all():
        # Householder's reflection of (1, ..., 1) / sqrt(C) to the first axis, where M has nothing.
        wide = size - 1 <= dim
        a = means[1:] + means[0] / (size**0.5 - 1) if wide else means
        with threads_for(max(size, dim)):
            q, r = torch.linalg.qr(a.T) if wide else torch.linalg.qr(a, mode="r")
        solve = torch.linalg.solve_triangular
        s = solve(r, q.T, upper=True) if wide else solve(r.T, r.new_ones(dim).diag(), upper=False)
        # No singular value of M is below 1 / ||S||: all of its directions count.
        if a.norm() * s.norm() < _RANK**-0.5 and s.norm() * between.rounding < 1:
            return (s @ w * s).sum() / between.num_rows
    _, basis = between.directions
    return between.nc1((basis @ w * basis).sum(1))


def _squared_projections(residuals: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """float64 [K]: the sum over rows of ``(r . v_k)^2``; residuals [B, D], basis [K, D].

    Products in the basis's dtype. In float32 each is off by about 2^-24 ||r||, at random: where r
    has no preferred direction that adds D 2^-48 to the sum of squares, 1e-11 of it at D = 2048.
    """
    return (residuals.to(basis.dtype) @ basis.T).double().square().sum(0)


def _finish(
    between: _Between,
    nc1: torch.Tensor | None,
    classifier: tuple[torch.Tensor, torch.Tensor] | None,
) -> NeuralCollapse:
    means, size = between.means, len(between.means)
    none = means.new_full((), torch.nan)
    norms = means.norm(dim=1)
    equinorm = norms.std(correction=0) / norms.mean() if size > 1 else none
    nc3 = None
    if classifier is not None:
        w = classifier[0][between.filled]
        nc3 = (w / w.norm() - means / means.norm()).square().sum() if size > 1 else none
    m = between.moments
    gaps, pairs = cosine_gap_sum(m._mean, m.counts)
    return NeuralCollapse(nc1, equinorm, gaps / pairs, nc3)


def _classifier(
    m: ClassMoments, weight: Any, bias: Any
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Weight [C, D] and bias [C] in float64, or None."""
    if weight is not None:
        return checked_classifier(weight, bias, m.num_classes, m.dim, m.device)
    if bias is not None:
        raise ValueError("bias: expected a weight beside it")
    return None


def checked_classifier(
    weight: Any, bias: Any, num_classes: int, dim: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [C, D] and bias [C] of a classifier on ``dim`` columns, in float64."""
    w = _checks.embeddings(_checks.as_tensor(weight, "weight"), "weight")
    if w.shape != (num_classes, dim):
        raise ValueError(f"weight: expected shape {[num_classes, dim]}, got {list(w.shape)}")
    b = w.new_zeros(len(w)) if bias is None else _checks.as_tensor(bias, "bias")
    if b.shape != (num_classes,) or not b.dtype.is_floating_point:
        raise ValueError(
            f"bias: expected {num_classes} floating-point numbers, "
            f"got shape {list(b.shape)} of {str(b.dtype)[6:]}"
        )
    for name, tensor in (("weight", w), ("bias", b)):
        if tensor.device != device:
            raise ValueError(f"{name}: is on {tensor.device}, the embeddings are on {device}")
    return w.double(), b.double()
