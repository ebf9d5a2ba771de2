r"""``class_projections`` in plain torch operations, by tiles of rows in class order and centers.

With g the mean of the centers and v_j = mu_j - g, a float64 product gives t_j = r . v_j - r . v_y.
A block of sorted rows holds few classes, so distances between means are taken once per class. With
``reach = max ||v_j||``, the products of D terms put a distance off by less than
``4 (D + 4) eps (||r|| + 2 reach)^2``; comparisons within that are made again from differences.
"""

from __future__ import annotations

import torch

from sslkernels.numerics.means import squared_distances

_BLOCK = 2048  # rows at a time: 32 MB of float64 at D = 2048
_COLUMNS = 1024  # centers per tile: 16 MB of float64 projections for a block of rows
_PAIR_CHUNK = 4096  # comparisons made again at a time: 4096 x D differences


def class_projections_forward(
    z: torch.Tensor,  # [N, D] embeddings, any strides
    classes: torch.Tensor,  # int64 [N], -1 for rows to skip
    centers: torch.Tensor,  # float64 [C, D]
    counts: torch.Tensor | None,  # int64 [C]
    directional: bool,
    between: torch.Tensor | None = None,  # float64 [C, C]
    *,
    block: int = _BLOCK,
    columns: int = _COLUMNS,
    pair_chunk: int = _PAIR_CHUNK,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    n, c = len(z), len(centers)
    rank = torch.full((n,), -1, dtype=torch.int64, device=z.device)
    alone = torch.zeros(n, dtype=torch.bool, device=z.device)
    spread = torch.zeros(c, dtype=torch.float64, device=z.device)
    rank[classes >= 0] = c
    usable = centers.isfinite().all(1)
    table = _Table(centers, usable.nonzero().squeeze(1))
    order = torch.argsort(classes, stable=True)
    order = order[classes[order] >= 0]
    order = order[usable[classes[order]]]
    for part in order.split(block):
        x, y = z[part].double(), classes[part]
        r = x - centers[y]
        own = r.square().sum(1)
        finite = own.isfinite()
        if directional:
            spread.index_fill_(0, y[~finite], torch.nan)
        if not finite.all():
            part, x, y, r, own = (t[finite] for t in (part, x, y, r, own))
        if len(part):
            rank[part], alone[part] = _stand(
                *(table, x, y, r, own, counts, spread, directional, between),
                *(columns, pair_chunk),
            )
    return rank, alone, spread


class _Table:
    """The usable centers: ``ids`` ascending, v around their mean."""

    def __init__(self, centers: torch.Tensor, ids: torch.Tensor) -> None:
        self.centers, self.ids = centers, ids
        means = centers[ids]
        self.v = means - means.mean(0)
        self.reach = self.v.norm(dim=1).amax() if len(ids) else means.new_zeros(())
        self.column = torch.full((len(centers),), -1, dtype=torch.int64, device=ids.device)
        self.column[ids] = torch.arange(len(ids), device=ids.device)


def _stand(
    table: _Table,
    x: torch.Tensor,  # float64 [B, D] finite rows in class order
    y: torch.Tensor,  # int64 [B] their classes
    r: torch.Tensor,  # float64 [B, D] rows less their centers
    own: torch.Tensor,  # float64 [B] ||r||^2
    counts: torch.Tensor | None,
    spread: torch.Tensor,  # float64 [C], added to if directional
    directional: bool,
    known: torch.Tensor | None,  # float64 [C, C] or None: distances between centers
    columns: int,
    pair_chunk: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rank of the own center, and whether it stays the nearest without the row."""
    limits = [(own, rank := torch.zeros_like(y))]
    rivals = torch.ones_like(y)
    if counts is not None:
        n = counts[y].double()
        without = own * (n / (n - 1)).square()  # infinite, or 0 x infinity, for a class of one
        gone = ~without.isfinite()
        rivals = gone.long()
        limits.append((torch.where(gone, own, without), rivals))
    held, member = y.unique_consecutive(return_inverse=True)
    at_own = (r * table.v[table.column[y]]).sum(1)
    eps = 4 * (x.shape[1] + 4) * torch.finfo(torch.float64).eps
    doubt = eps * (own.sqrt() + 2 * table.reach).square()
    one_hot = torch.nn.functional.one_hot(member, len(held)).T.double() if directional else None
    for start in range(0, len(table.v), columns):
        v, ids = table.v[start : start + columns], table.ids[start : start + columns]
        t = torch.addmm(at_own.unsqueeze(1), r, v.T, beta=-1.0)
        if known is None:
            between = squared_distances(table.v[table.column[held]], v, pair_chunk)
        else:
            between = known[held.unsqueeze(1), ids]
        at_itself = held.unsqueeze(1) == ids
        if one_hot is not None:
            ratios = (one_hot @ t.square()) / between.masked_fill(between == 0, torch.nan).square()
            spread.index_add_(0, held, ratios.masked_fill_(at_itself, 0.0).sum(1))
        beyond = between.masked_fill_(at_itself, torch.inf)[member].sub_(t, alpha=2.0)
        for limit, count in limits:  # nearer: beyond < limit - own
            gap = (limit - own).unsqueeze(1)
            low, high = gap - doubt.unsqueeze(1), gap + doubt.unsqueeze(1)
            nearer = beyond < low
            count += nearer.sum(1)
            open_ = ~(nearer | (beyond > high))  # a comparison with NaN decides nothing
            for pairs in open_.nonzero().split(pair_chunk):
                row, other = pairs[:, 0], ids[pairs[:, 1]]
                exact = (x[row] - table.centers[other]).square().sum(1)
                tied = (exact == limit[row]) & (other < y[row])
                is_other = other != y[row]
                count.index_add_(0, row, (((exact < limit[row]) | tied) & is_other).long())
    return rank, rivals == 0
