"""Column moments of the global batch, and products with all of its rows.

Each rank centers its rows by its OWN column means m_r. One gather then carries these rows together
with counts, means and sums of squares, which merge exactly (Chan, Golub, LeVeque): with m the
global mean and d_r = m_r - m,

    sum over all rows of (z - m)^2 = sum_r (sum over rank r of (z - m_r)^2 + n_r d_r^2).

A row of rank s, centered globally, is what it sent plus d_s. Products with all rows therefore need
no pass over them: for a [n, D] and K [n, N],

    a . (row + d_s)             = a . row + a . d_s,
    sum_i K_i (row_i + d_s(i)) = sum_i K_i row_i + sum_s (sum of K's columns of rank s) d_s.

Nothing cancels here: rows and d are of the size of the data's spread, whatever its offset.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.distributed.batch import Batch, gather
from sslkernels.numerics.views import result_dtype
from sslkernels.passes.selection import select
from sslkernels.passes.vicreg import VICRegSettings


class Local(NamedTuple):
    """One rank's moments of Q problems (views x middle dimensions), float64."""

    mean: Tensor  # [Q, D]
    m2: Tensor  # [Q, D]: sums of (z - mean)^2
    extra: Tensor  # any shape: what else travels along


class Moments(NamedTuple):
    """The global batch's moments, float64."""

    mean: Tensor  # [Q, D]
    m2: Tensor  # [Q, D]
    offset: Tensor  # [W, Q, D]: each rank's mean less the global one
    extra: Tensor  # [W, ...]


def local_moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means and m2 [2P, D] and the mean of (x - y)^2 of views [P, n, D], in one backend pass."""
    n = x.shape[1]
    settings = VICRegSettings(variance=n > 1, covariance=False)
    terms, mean, var, _ = select("vicreg", x).vicreg_forward(x, y, settings)
    if n == 1:  # a lone row: no variance, and itself the mean
        mean = torch.stack((x, y)).squeeze(2).double()
        var = torch.zeros_like(mean)
    return mean.flatten(0, 1), (var * (n - 1)).flatten(0, 1), terms[1].double()


def centered(z: Tensor, mean: Tensor, out: Tensor | None = None) -> Tensor:
    """z - mean in the result dtype; the mean is split so that a common offset costs no digits."""
    high = mean.to(result_dtype(z.dtype))
    out = torch.sub(z, high.unsqueeze(-2), out=out)
    return out.sub_((mean - high).to(high.dtype).unsqueeze(-2))


def _merge(batch: Batch, mean: Tensor, m2: Tensor, extra: Tensor) -> Moments:
    """Moments from [W, Q, D] of every rank."""
    count = torch.tensor(batch.rows, dtype=torch.float64, device="cpu").to(
        mean.device, non_blocking=True
    )
    count = count.view(-1, 1, 1)
    apart = mean - mean[0]
    middle = (count * apart).sum(0) / batch.total
    offset = apart - middle
    return Moments(mean[0] + middle, (m2 + count * offset.square()).sum(0), offset, extra)


def _split(batch: Batch, stats: Tensor, local: Local) -> Moments:
    mean, m2, extra = stats.split([t.numel() for t in local], dim=1)
    return _merge(
        batch,
        mean.unflatten(1, local.mean.shape),
        m2.unflatten(1, local.m2.shape),
        extra.unflatten(1, local.extra.shape),
    )


def gather_moments(batch: Batch, local: Local) -> Moments:
    return _split(batch, gather(batch, torch.cat([t.flatten() for t in local])), local)


class Rows:
    """All ranks' rows of Q problems, shorter ranks' filled up with rows of zeros."""

    def __init__(self, batch: Batch, rows: Tensor, offset: Tensor) -> None:
        self.batch = batch
        self.rows = rows  # [W, Q, n_max, D], each rank's centered by its own means
        self.offset = offset.to(rows.dtype)  # [W, Q, D]

    def own(self, q: int) -> Tensor:
        """[n, D]: this rank's rows, centered globally."""
        rank = self.batch.rank
        return self.rows[rank, q, : self.batch.rows[rank]] + self.offset[rank, q]

    def products(self, a: Tensor, q: int) -> Tensor:
        """[W, n, n_max]: the products of a's rows with all rows, 0 for those filled up."""
        rows = self.rows[:, q]
        k = torch.bmm(a.expand(len(rows), *a.shape), rows.mT)
        k += (self.offset[:, q] @ a.T).unsqueeze(2)
        for rank, n in enumerate(self.batch.rows):
            k[rank, :, n:] = 0
        return k

    def combine(self, k: Tensor, q: int) -> Tensor:
        """[n, D]: sums of all rows weighted by k [W, n, n_max]."""
        out = k.sum(2).T @ self.offset[:, q]
        for weights, rows in zip(k, self.rows[:, q], strict=True):
            out.addmm_(weights, rows)
        return out


def gather_rows(batch: Batch, views: list[Tensor], local: Local) -> tuple[Moments, Rows]:
    """Moments and rows of views [P, n, D] by one collective.

    A rank sends its moments as the float64 numbers they are, ahead of its rows, in one buffer of
    the result dtype.
    """
    p, n, d = views[0].shape
    q = len(views) * p
    dtype = result_dtype(views[0].dtype)
    n_max = max(batch.rows)
    words = 8 // dtype.itemsize
    ahead = sum(t.numel() for t in local) * words
    length = ahead + q * n_max * d
    own = views[0].new_empty(-(-length // words) * words, dtype=dtype)  # rows of float64 must align
    own[:ahead].view(torch.float64).copy_(torch.cat([t.flatten() for t in local]))
    block = own[ahead:length].view(q, n_max, d)
    for view, mean, out in zip(views, local.mean.split(p), block.split(p), strict=True):
        centered(view, mean, out=out[:, :n])
    block[:, n:] = 0
    own[length:] = 0
    everyone = gather(batch, own)
    moments = _split(batch, everyone[:, :ahead].view(torch.float64), local)
    rows = everyone[:, ahead:length].unflatten(1, (q, n_max, d))
    return moments, Rows(batch, rows, moments.offset)
