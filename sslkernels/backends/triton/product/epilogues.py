"""What is made of a tile of a symmetric product (``gram.py``) while it is in registers.

A kernel is told which by its name, a constexpr string: what a kernel is compiled for can then be
written down, which the hooks of profilers do. Each takes, beside its name,

* ``acc`` fp32 [R, BLOCK]: the elements of problem ``problem`` from row ``top`` and column ``left``
  (int32 scalars) on; zero where either index is >= M.
* ``slot``: distinct for each call, covering [0, Q * programs) with ``programs`` from ``gram.plan``:
  where the epilogue stores its partial sums, all of which some later kernel adds in order.
* ``mirror``: the tile lies strictly above the diagonal, so its transpose is computed nowhere else.
* ``extra``: the tuple of pointers and scalars given to ``gram.gram``.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def squares(acc, top, left, problem, slot, mirror, M, extra):
    """Stores the tile and its mirror image, and the sum of squares of the whole matrix's part.

    ``scale`` is a power of two near 1/(N - 1): it keeps the squares in range and loses nothing.
    """
    gram_ptr, sums_ptr, scale, diagonal = extra
    r = tl.arange(0, acc.shape[0])
    c = tl.arange(0, acc.shape[1])
    # How far above the diagonal. An element there stands for two; a diagonal tile holds both.
    above = (left - top) + c[None, :] - r[:, None]
    acc = tl.where((above == 0) & (diagonal == 0.0), 0.0, acc)
    scaled = acc * scale
    weight = tl.where(above > 0, 2.0, tl.where(above == 0, 1.0, 0.0))
    tl.store(sums_ptr + slot, tl.sum(scaled * scaled * weight).to(tl.float64))
    # 64-bit arithmetic for the tile's corner, 32-bit within: half the address registers.
    gram_ptr += problem * M * M
    mask = (r < M - top)[:, None] & (c < M - left)[None, :]
    corner = gram_ptr + top.to(tl.int64) * M + left
    tl.store(corner + (r[:, None] * M + c[None, :]), acc, mask=mask)
    if mirror:
        corner = gram_ptr + left.to(tl.int64) * M + top
        tl.store(corner + (c[:, None] * M + r[None, :]), acc.T, mask=mask.T)


@triton.jit
def cdnv(acc, top, left, problem, slot, mirror, M, extra):
    """The tile's sum of V_ij over i < j; infinity if a pair lost its digits."""
    norm_ptr, var_ptr, sum_ptr, corner_ptr, share = extra
    i = top + tl.arange(0, acc.shape[0])
    j = left + tl.arange(0, acc.shape[1])
    tl.store(corner_ptr + 2 * slot, top)
    tl.store(corner_ptr + 2 * slot + 1, left)
    ni = tl.load(norm_ptr + i, mask=i < M, other=0.0)
    nj = tl.load(norm_ptr + j, mask=j < M, other=0.0)
    terms = ni[:, None] + nj[None, :]
    d2 = terms - 2.0 * acc
    kept = d2 > share * terms
    vi = tl.load(var_ptr + i, mask=i < M, other=-1.0)
    vj = tl.load(var_ptr + j, mask=j < M, other=-1.0)
    ratio = tl.where(kept, 0.5 * (vi[:, None] + vj[None, :]) / d2, float("inf"))
    # An empty class has the variance -1.
    pair = (i[:, None] < j[None, :]) & (vi != -1.0)[:, None] & (vj != -1.0)[None, :]
    tl.store(sum_ptr + slot, tl.sum(tl.where(pair, ratio, 0.0)).to(tl.float64))


@triton.jit
def cosine(acc, top, left, problem, slot, mirror, M, extra):
    """The tile's sum of |cos_ij + 1 / (C - 1)| over i < j."""
    target_ptr, sum_ptr = extra  # 1 / (C - 1), or -2 for an empty class
    i = top + tl.arange(0, acc.shape[0])
    j = left + tl.arange(0, acc.shape[1])
    ti = tl.load(target_ptr + i, mask=i < M, other=-2.0)
    tj = tl.load(target_ptr + j, mask=j < M, other=-2.0)
    pair = (i[:, None] < j[None, :]) & (ti >= 0.0)[:, None] & (tj >= 0.0)[None, :]
    gap = tl.where(pair, tl.abs(acc + ti[:, None]), 0.0)
    tl.store(sum_ptr + slot, tl.sum(gap).to(tl.float64))


@triton.jit
def finish(acc, top, left, problem, slot, mirror, M, extra, EPILOGUE: tl.constexpr):
    if EPILOGUE == "squares":
        squares(acc, top, left, problem, slot, mirror, M, extra)
    elif EPILOGUE == "cdnv":
        cdnv(acc, top, left, problem, slot, mirror, M, extra)
    else:
        tl.static_assert(EPILOGUE == "cosine")
        cosine(acc, top, left, problem, slot, mirror, M, extra)
