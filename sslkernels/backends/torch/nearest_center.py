"""``nearest_center`` in plain torch operations, block by block of rows.

With x = a (z - g) and m_c = a (mu_c - g), g the mean of the centers and a a power of two that puts
the largest ||m_c|| near 1, the nearest center minimises ``S_c = ||m_c||^2 / 2 - x.m_c``. In float64
S_c is off by at most ``E = 2 gamma (||x|| + max ||m_c||)^2``, gamma = 2^-52 (D + 16), which also
covers the rounding of the float64 distances that define the answer. Centers within 2 E of the best
are compared by their distances from differences; all but ties and near ties have just one.
"""

from __future__ import annotations

import math

import torch

_BLOCK_ELEMENTS = 1 << 22  # of the largest temporary: 32 MiB in float64


def nearest_center_forward(
    z: torch.Tensor,  # [N, D] embeddings
    centers: torch.Tensor,  # [C, D] float32 or float64
    exact: bool,
    *,
    elements: int = _BLOCK_ELEMENTS,
) -> torch.Tensor:
    n, d = z.shape
    out = torch.full((n,), -1, dtype=torch.int64, device=z.device)
    usable = centers.isfinite().all(1).nonzero().squeeze(1)
    if len(usable) == 0 or n == 0:
        return out
    mu = centers[usable].double()
    g = mu.mean(0)
    m = mu - g
    scale = _power_of_two(float(m.norm(dim=1).max()))
    m *= scale
    squares = m.square().sum(1)
    if not exact:
        m, squares = m.float(), squares.float()
    block = max(1, elements // max(d, len(mu)))
    for start in range(0, n, block):
        rows = z[start : start + block].double()
        x = (rows - g) * scale
        scores = torch.addmm(squares / 2, x.to(m.dtype), m.T, alpha=-1)
        best = _decide(scores, x, rows, m, mu, elements) if exact else scores.argmin(1)
        finite = rows.isfinite().all(1)
        out[start : start + block] = torch.where(finite, usable[best], -1)
    return out


def _power_of_two(largest: float) -> float:
    if not math.isfinite(largest) or largest == 0.0:
        return 1.0
    return math.ldexp(1.0, max(-1000, min(1000, -math.frexp(largest)[1])))


def _decide(
    scores: torch.Tensor,  # float64 [n, C] S_c
    x: torch.Tensor,  # float64 [n, D] shifted and scaled rows
    rows: torch.Tensor,  # float64 [n, D] rows as given
    m: torch.Tensor,  # float64 [C, D] shifted and scaled centers
    mu: torch.Tensor,  # float64 [C, D] centers as given
    elements: int,
) -> torch.Tensor:
    """int64 [n]: the first smallest float64 distance among the centers that S_c cannot exclude."""
    d = x.shape[1]
    reach = x.norm(dim=1) + m.norm(dim=1).max()
    bound = 2.0**-51 * (d + 16) * reach.square() + 1e-290
    # Negated, so that a row whose scores overflowed to NaN keeps every center.
    candidates = ~(scores > (scores.amin(1) + 2 * bound)[:, None])
    candidates &= rows.isfinite().all(1, keepdim=True)
    first = candidates.int().argmax(1)
    several = (candidates.sum(1) > 1).nonzero().squeeze(1)
    if len(several) == 0:
        return first
    pair_row, pair_center = candidates[several].nonzero(as_tuple=True)
    distance = torch.empty(len(pair_row), dtype=torch.float64, device=x.device)
    step = max(1, elements // d)
    for start in range(0, len(pair_row), step):
        part = slice(start, start + step)
        difference = rows[several[pair_row[part]]] - mu[pair_center[part]]
        distance[part] = difference.square().sum(1)
    least = torch.full((len(several),), math.inf, dtype=torch.float64, device=x.device)
    least = least.scatter_reduce(0, pair_row, distance, "amin")
    nearest = distance == least[pair_row]
    winner = torch.full((len(several),), len(mu), dtype=torch.int64, device=x.device)
    winner = winner.scatter_reduce(0, pair_row[nearest], pair_center[nearest], "amin")
    return first.index_copy(0, several, winner)
