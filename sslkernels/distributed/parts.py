"""A rank's part of the products of all ranks' rows.

A symmetric product costs half where one process computes it whole, and own rows x all rows never
is symmetric. So ranks share its *contraction* instead, and add their parts up: of a wide problem a
rank takes some columns of all rows, brought by one all-to-all, of any other its own rows. Each
part is a problem of its own for the kernels (``passes/vicreg.py``, Parts).

Means of own rows merge exactly (Chan, Golub, LeVeque): with m the global mean and d_r = m_r - m,

    sum over all rows of (z - m)(w - m)^T = sum_r (that of rank r around m_r + n_r d_r d_r^T).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from sslkernels.distributed.batch import Batch, gather

_ALIGNED = 16  # columns: a multiple of every vector, so that rows of a part stay aligned


def widths(batch: Batch, d: int) -> list[int]:
    """How many of d >= W columns each rank takes: near-equal, and aligned if that costs little."""
    unit = _ALIGNED if d >= 16 * _ALIGNED * batch.world else 1
    edges = [rank * (d // unit) // batch.world * unit for rank in range(batch.world)]
    return [end - start for start, end in pairwise([*edges, d])]


def to_columns(batch: Batch, views: list[Tensor]) -> list[Tensor]:
    """This rank's columns of all rows, [P, N, D_r], of views [P, n, D]: one all-to-all."""
    p, n, d = views[0].shape
    columns = widths(batch, d)
    count, own = len(views), columns[batch.rank]
    sent = views[0].new_empty(count * p * n * d)
    blocks = sent.split([count * p * n * width for width in columns])
    for v, view in enumerate(views):
        for block, part in zip(blocks, view.split(columns, dim=2), strict=True):
            block.view(n, count, p, -1)[:, v] = part.transpose(0, 1)
    received = _exchange(batch, sent, [count * p * rows * own for rows in batch.rows], blocks)
    return list(received.view(batch.total, count, p, own).transpose(0, 2).unbind(1))


def to_rows(batch: Batch, columns: Tensor, d: int) -> Tensor:
    """This rank's rows of what ranks have of their columns [P, N, D_r]: one all-to-all. Flat: each
    rank's columns after the other, as :func:`add_columns` takes them."""
    p, _, width = columns.shape
    sent = columns.transpose(0, 1).flatten()
    blocks = sent.split([rows * p * width for rows in batch.rows])
    n = batch.rows[batch.rank]
    return _exchange(batch, sent, [n * p * other for other in widths(batch, d)], blocks)


def add_columns(batch: Batch, out: Tensor, rows: Tensor, scale: Tensor) -> None:
    """out [P, n, D] += scale * what :func:`to_rows` brought."""
    p, n, d = out.shape
    columns = widths(batch, d)
    pieces = rows.split([n * p * width for width in columns])
    for piece, part in zip(pieces, out.split(columns, dim=2), strict=True):
        part.addcmul_(piece.view(n, p, -1).transpose(0, 1), scale)


def _exchange(batch: Batch, sent: Tensor, sizes: list[int], blocks: tuple[Tensor, ...]) -> Tensor:
    """Block r of ``sent`` to rank r; what comes from rank r has ``sizes[r]`` elements."""
    received = sent.new_empty(sum(sizes))
    bytes_of = sent.element_size()  # Gloo does not know every dtype
    dist.all_to_all_single(
        received.view(torch.uint8),
        sent.view(torch.uint8),
        [size * bytes_of for size in sizes],
        [block.numel() * bytes_of for block in blocks],
        group=batch.group,
    )
    return received


def gather_columns(
    batch: Batch, own: Tensor, d: int, shares: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """[K, D] of every rank's [K, D_r], and the sums over ranks of the 0-d ``shares``; float64."""
    columns = widths(batch, d)
    sent = own.new_zeros((len(own), max(columns)))
    sent[:, : own.shape[1]] = own
    everyone = gather(batch, torch.cat((sent.flatten(), torch.stack(shares).double())))
    blocks, sums = everyone.split([sent.numel(), len(shares)], dim=1)
    parts = [block.view_as(sent)[:, :width] for block, width in zip(blocks, columns, strict=True)]
    return torch.cat(parts, 1), list(sums.sum(0).unbind())


def gather_counted(batch: Batch, own: Tensor) -> tuple[Tensor, Tensor]:
    """[W, *shape] of every rank's float64 numbers, and [W, 1, ...] their rows: a copy of
    ``batch.rows`` from the host would make a GPU wait."""
    rows = own.new_full((1,), batch.rows[batch.rank])
    everyone = gather(batch, torch.cat((own.flatten(), rows)))
    found = everyone[:, :-1].unflatten(1, own.shape)
    return found, everyone[:, -1].view(-1, *[1] * own.ndim)


def merged_means(batch: Batch, mean: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Means over all rows, and each rank's less these, of every rank's means [W, ...]."""
    apart = mean - mean[0]  # small numbers, whatever the data's offset
    middle = (rows * apart).sum(0) / batch.total
    return mean[0] + middle, apart - middle


def own_share(batch: Batch, gram: Tensor) -> Tensor:
    """The rows of matrices [..., M, M] of which this rank adds up what all ranks need."""
    return gram.tensor_split(batch.world, dim=-2)[batch.rank]
