r"""Rows x centers to the accuracy of fp32: where the own center stands, and how far a row reaches
along the lines between class means. The kernels; their order is in ``project.py``.

A row z of class y and the centers mu_j, all relative to g, the mean of the centers: v_j = mu_j - g,
n_j = ||v_j||^2. Two products answer everything about the row:

* with ``directional``, r = z - mu_y. With p_j = r.v_j and h_yj = ||mu_j - mu_y||^2 / 2::

      ||z - mu_j||^2 = ||r||^2 - 2 (p_j - p_y - h_yj)
      (r.(mu_j - mu_y))^2 / ||mu_j - mu_y||^4 = ((p_j - p_y) / (2 h_yj))^2

  h_yj = (n_y + n_j) / 2 - v_y.v_j comes from the same product, whose rows are then centers: C x C
  numbers at most, and never more than fit a bounded workspace;
* otherwise x = z - g, which needs no h: with p_j = x.v_j,
  ``||z - mu_j||^2 = ||x||^2 - 2 (p_j - n_j / 2)``.

Either way the question "is center j nearer than the own one", or nearer than the own one at f times
its squared distance (the row has left its class of n, f = (n / (n - 1))^2), is ::

    c_j - p_j < limit        c_j = h_yj or n_j / 2, one limit per row and question, in float64

**Operands.** A row and a center are each brought to a length in [2^13, 2^14) by a power of two of
their own and split into two fp16 planes: 22 bits, like two tf32 planes (``gram.py``), at twice the
speed and half the bytes. Three products of planes, hi lo + lo hi + hi hi, are as good as fp32's.

**Bound.** All else is scaled by one power of two that brings the largest ||v_j|| into [1, 2). Each
step of K columns is summed by itself, at 2^-22 per addition, and the steps in fp32. So::

    |p~_j - p_j| <= E ||a|| ||v_j||                                               a = r or x
    E = (K + 4) 2^-22 + (steps + 4) 2^-24 + 2^-20 + sqrt(D) 2^-26

(the last term for elements that are subnormal in fp16) and the same with ||v_y|| for the product in
h. Rounding c, p, limit and the terms of h to fp32 adds 2^-21 of them, the float64 sums
(D + 8) 2^-51 (||a|| + 4)^2. A comparison inside the bound is decided in float64, and so is
everything about two means so close that h_yj has lost digits. Rows whose size fp32 cannot take have
an infinite bound.

The product is stored, for a bounded number of rows, and a kernel over rows asks the questions: two
fp32 sums of a 128 x 128 tile leave no registers to ask them in, and what is written and read so is
little beside the operands.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton.language as tl

from sslkernels.backends.triton.core import launch, numerics
from sslkernels.backends.triton.product.operands import store_operand


class Centers(NamedTuple):
    """All that the kernels need of the centers; scaled by ``power`` but for ``given`` and ``g``."""

    given: torch.Tensor  # [C, D] float64
    usable: torch.Tensor  # [C] uint8
    g: torch.Tensor  # [D] float64
    power: torch.Tensor  # 0-d float64
    operand: torch.Tensor  # [planes, C padded, pitch] fp16: v, each of its own scale
    unscale: torch.Tensor  # [C] fp32: by what to multiply a center's products
    half: torch.Tensor  # [C] fp32: ||v||^2 / 2
    length: torch.Tensor  # [C] fp32: ||v||, rounded up
    factor: torch.Tensor  # [C] float64: f; infinite if nobody asks


class Rows(NamedTuple):
    """Rows in class order, as the product reads them and as float64 knows them."""

    order: torch.Tensor  # [rows] int64: which rows of z
    classes: torch.Tensor  # [rows] int64: their classes, -1 to skip
    operand: torch.Tensor  # [planes, rows padded, pitch] fp16
    own: torch.Tensor  # [rows] float64: ||z - mu_y||^2; -1 where mu_y is empty
    unscale: torch.Tensor  # [rows padded] fp32: by what to multiply the row's products
    reach: torch.Tensor  # [rows] fp32: ||a||, and ||v_y|| more if DIRECTIONAL
    limit: torch.Tensor  # [rows] fp32
    without: torch.Tensor  # [rows] fp32: the limit when the row has left its class
    slack: torch.Tensor  # [rows] fp32: the part of the bound that is the same for all centers


@launch.kernel
def projection_rows_kernel(
    z_ptr,  # [N, D] embeddings
    rows: tl.tuple,  # Rows; all but order and classes out
    centers: tl.tuple,  # Centers
    D,
    stride_zn,
    pitch,
    plane_stride,
    DIRECTIONAL: tl.constexpr,
    ROUNDING: tl.constexpr,
    VEC: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row as the product reads it, and all that float64 knows of it by itself."""
    D = D // VEC * VEC
    pitch = pitch // PAD * PAD
    i = tl.program_id(0).to(tl.int64)
    y = tl.load(rows.classes + i)
    usable = False
    if y >= 0:
        usable = tl.load(centers.usable + y) != 0
    if not usable:
        tl.store(rows.own + i, -1.0)
        tl.store(rows.unscale + i, 0.0)
        return
    x_ptr = z_ptr + tl.load(rows.order + i) * (stride_zn // VEC * VEC).to(tl.int64)
    mu_ptr = centers.given + y * D
    power = tl.load(centers.power)
    own = tl.zeros([BLOCK], tl.float64)
    other = tl.zeros([BLOCK], tl.float64)  # r.v_y or ||x||^2
    for start in range(0, D, BLOCK):
        d = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + d, mask=d < D, other=0.0).to(tl.float32).to(tl.float64)
        mu = tl.load(mu_ptr + d, mask=d < D, other=0.0)
        g = tl.load(centers.g + d, mask=d < D, other=0.0)
        own += (x - mu) * (x - mu)
        if DIRECTIONAL:
            other += (x - mu) * (mu - g)
        else:
            other += (x - g) * (x - g)
    own_sq = tl.sum(own, axis=0)
    second = tl.sum(other, axis=0)
    tl.store(rows.own + i, own_sq)
    square = power * power
    if DIRECTIONAL:
        limit = -second * square
        size = tl.sqrt(own_sq) * power
    else:
        limit = 0.5 * (own_sq - second) * square
        size = tl.sqrt(second) * power
    slack = tl.abs(limit)
    without = tl.full([], -float("inf"), tl.float64)
    # A class of one has no center left: f is infinite, or NaN times a distance of zero.
    moved = own_sq * tl.load(centers.factor + y)
    if moved < float("inf"):
        without = limit + 0.5 * (moved - own_sq) * square
        slack += tl.abs(without)
    far = size + 4.0
    slack = slack * 4.8e-7 + (D + 8) * 4.5e-16 * far * far + 1e-30 * far
    fits = (size < 1e10) & (slack < 1e30)
    reach = size * 1.000001
    if DIRECTIONAL:
        length = tl.load(centers.length + y)
        reach += length
        slack += 2.4e-7 * length * length
    tl.store(rows.reach + i, tl.where(fits, reach, 0.0).to(tl.float32))
    tl.store(rows.limit + i, limit.to(tl.float32))
    tl.store(rows.without + i, without.to(tl.float32))
    tl.store(rows.slack + i, tl.where(fits, slack, float("inf")).to(tl.float32))

    # The exponent of the row's length, from its bits.
    e = (tl.where(fits, size, 1.0).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
    e = tl.maximum(e, -100)
    scale = power * ((140 - e) << 23).to(tl.float32, bitcast=True)
    tl.store(rows.unscale + i, ((114 + e) << 23).to(tl.float32, bitcast=True))
    a_ptr = rows.operand + i * pitch
    for start in range(0, pitch, BLOCK):
        d = start + tl.arange(0, BLOCK)
        value = tl.load(x_ptr + d, mask=d < D, other=0.0).to(tl.float32).to(tl.float64)
        if DIRECTIONAL:
            value -= tl.load(mu_ptr + d, mask=d < D, other=0.0)
        else:
            value -= tl.load(centers.g + d, mask=d < D, other=0.0)
        store_operand(a_ptr, d, (value * scale).to(tl.float32), d < pitch, plane_stride, ROUNDING)


@launch.kernel
def projection_kernel(
    a_ptr,  # [planes, rows padded, pitch] fp16
    a_unscale_ptr,  # fp32, one for each row of a
    centers: tl.tuple,  # Centers
    list_ptr,  # [rows] int32: which rows of a (LISTED)
    count_ptr,  # [1] int32: how many of them (LISTED)
    out_ptr,  # [rows, out_pitch] fp32 out
    rows,
    C,
    row_tiles,
    col_tiles,
    GROUP,
    pitch,
    a_plane,
    v_plane,
    out_pitch,
    LISTED: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Products of rows and centers."""
    pitch = pitch // BLOCK_K * BLOCK_K
    out_pitch = out_pitch // PAD * PAD
    a_plane = (a_plane // PAD * PAD).to(tl.int64)
    v_plane = (v_plane // PAD * PAD).to(tl.int64)
    # GROUP tile rows share the centers in the L2 cache.
    pid = tl.program_id(0)
    top = pid // (GROUP * col_tiles) * GROUP
    height = tl.minimum(row_tiles - top, GROUP)
    within = pid % (GROUP * col_tiles)
    row = (top + within % height) * BLOCK_N + tl.arange(0, BLOCK_N)
    j = within // height * BLOCK_C + tl.arange(0, BLOCK_C)
    if LISTED:
        rows = tl.load(count_ptr)
        if (top + within % height) * BLOCK_N >= rows:
            return
        source = tl.load(list_ptr + row, mask=row < rows, other=0)
    else:
        source = row
        if tl.max(tl.load(a_unscale_ptr + row, mask=row < rows, other=0.0), axis=0) == 0:
            return  # rows without a class
    a_unscale = tl.load(a_unscale_ptr + source, mask=row < rows, other=0.0)
    ks = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + source.to(tl.int64)[:, None] * pitch + ks[None, :]
    v_ptrs = centers.operand + j.to(tl.int64)[None, :] * pitch + ks[:, None]
    acc = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for k in range(0, pitch, BLOCK_K):
        a = tl.load(a_ptrs + k)
        v = tl.load(v_ptrs + k)
        part = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
        part = numerics.dot(tl.load(a_ptrs + a_plane + k), v, part, "ieee")
        part = numerics.dot(a, tl.load(v_ptrs + v_plane + k), part, "ieee")
        # A subtraction: the compiler would turn a sum into one long accumulation.
        acc = acc - numerics.dot(a, v, part, "ieee")
    v_unscale = tl.load(centers.unscale + j, mask=j < C, other=0.0)
    out = -acc * a_unscale[:, None] * v_unscale[None, :]
    at = row.to(tl.int64)[:, None] * out_pitch + j[None, :]
    tl.store(out_ptr + at, out, mask=(row < rows)[:, None] & (j < out_pitch)[None, :])


@launch.kernel
def projection_decide_kernel(
    z_ptr,  # [N, D] embeddings
    rows: tl.tuple,  # Rows
    centers: tl.tuple,  # Centers
    product_ptr,  # [rows, out_pitch] fp32: p
    table_ptr,  # [table rows, out_pitch] fp32: v_y.v_j (DIRECTIONAL)
    slot_ptr,  # [rows] int32: rows of the table (DIRECTIONAL)
    rank_ptr,  # [N] int64 out
    alone_ptr,  # [N] uint8 out
    spread_ptr,  # [rows] float64 out (DIRECTIONAL): a row's sum over the other classes
    C,
    D,
    stride_zn,
    out_pitch,
    DIRECTIONAL: tl.constexpr,
    VEC: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,  # of the product
):
    """What a row's products tell, and in float64 from differences what they do not."""
    D = D // VEC * VEC
    out_pitch = (out_pitch // PAD * PAD).to(tl.int64)
    none: tl.constexpr = 2147483647
    i = tl.program_id(0).to(tl.int64)
    row = tl.load(rows.order + i)
    y = tl.load(rows.classes + i)
    own = tl.load(rows.own + i)
    if (y < 0) | (own < 0) | (own - own != 0.0):
        # Skipped; the own center is empty; the row is not finite.
        tl.store(rank_ptr + row, tl.where(y < 0, -1, C).to(tl.int64))
        tl.store(alone_ptr + row, tl.full([], 0, tl.uint8))
        if DIRECTIONAL:
            tl.store(spread_ptr + i, tl.where((y < 0) | (own < 0), 0.0, own - own))
        return
    x_ptr = z_ptr + row * (stride_zn // VEC * VEC).to(tl.int64)
    mu_ptr = centers.given + y * D
    factor = tl.load(centers.factor + y)
    if DIRECTIONAL:
        half_y = tl.load(centers.half + y)
        table_ptr += tl.load(slot_ptr + i).to(tl.int64) * out_pitch
    steps = tl.cdiv(D, BLOCK_K)
    unit = (BLOCK_K + 4) * 2.3841858e-7 + (steps + 4) * 5.9604645e-8 + 9.5367432e-7
    unit += tl.sqrt(D.to(tl.float32)) * 1.4901161e-8
    reach = tl.load(rows.reach + i) * unit * 1.01
    limit = tl.load(rows.limit + i)
    without = tl.load(rows.without + i)
    slack = tl.load(rows.slack + i)
    ranks = tl.zeros([BLOCK_C], tl.int32)
    rivals = tl.zeros([BLOCK_C], tl.int32)
    squares = tl.zeros([BLOCK_C], tl.float64)
    more = tl.full([], 0, tl.int32)
    more_rivals = tl.full([], 0, tl.int32)
    total = tl.full([], 0.0, tl.float64)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        others = (tl.load(centers.usable + c, mask=c < C, other=0) != 0) & (c != y)
        p = tl.load(product_ptr + i * out_pitch + c, mask=others, other=0.0)
        half = tl.load(centers.half + c, mask=others, other=1.0)
        length = tl.load(centers.length + c, mask=others, other=0.0)
        if DIRECTIONAL:
            terms = half_y + half
            h = terms - tl.load(table_ptr + c, mask=others, other=0.0)
        else:
            h = half
        bound = reach * length + slack + 4.8e-7 * (h + half)
        score = h - p
        sure = (tl.abs(score - limit) > bound) & (tl.abs(score - without) > bound)
        if DIRECTIONAL:
            # Six bits are lost at most; 1e-10: quotients by less could leave fp32's range.
            sure = sure & (h > terms * 0.015625) & (terms > 1e-10)
            along = (p + limit) / (2.0 * h)  # limit is -p_y
            squares += tl.where(others & sure, along * along, 0.0).to(tl.float64)
        ranks += (others & sure & (score < limit)).to(tl.int32)
        rivals += (others & sure & (score < without)).to(tl.int32)
        left = tl.where(others & ~sure, c, none)
        j = tl.min(left, axis=0)
        while j < none:
            nu_ptr = centers.given + j.to(tl.int64) * D
            own_sq = tl.zeros([BLOCK_D], tl.float64)
            there = tl.zeros([BLOCK_D], tl.float64)
            products = tl.zeros([BLOCK_D], tl.float64)
            between = tl.zeros([BLOCK_D], tl.float64)
            for start in range(0, D, BLOCK_D):
                d = start + tl.arange(0, BLOCK_D)
                x = tl.load(x_ptr + d, mask=d < D, other=0.0).to(tl.float32).to(tl.float64)
                mu = tl.load(mu_ptr + d, mask=d < D, other=0.0)
                nu = tl.load(nu_ptr + d, mask=d < D, other=0.0)
                own_sq += (x - mu) * (x - mu)
                there += (x - nu) * (x - nu)
                if DIRECTIONAL:
                    products += (x - mu) * (nu - mu)
                    between += (nu - mu) * (nu - mu)
            # One order of summation on both sides: equal centers tie.
            here = tl.sum(own_sq, axis=0)
            d2 = tl.sum(there, axis=0)
            lower = j < y
            more += ((d2 < here) | ((d2 == here) & lower)).to(tl.int32)
            moved = here * factor
            more_rivals += ((d2 < moved) | ((d2 == moved) & lower)).to(tl.int32)
            if DIRECTIONAL:
                ratio = tl.sum(products, axis=0) / tl.sum(between, axis=0)
                total += ratio * ratio  # NaN where the two means are one
            left = tl.where(left > j, left, none)
            j = tl.min(left, axis=0)
    tl.store(rank_ptr + row, (tl.sum(ranks, axis=0) + more).to(tl.int64))
    any_rival = tl.sum(rivals, axis=0) + more_rivals
    alone = (any_rival == 0) & (own * factor < float("inf"))
    tl.store(alone_ptr + row, alone.to(tl.uint8))
    if DIRECTIONAL:
        tl.store(spread_ptr + i, total + tl.sum(squares, axis=0))


@launch.kernel
def projection_spread_kernel(
    spread_ptr,  # [N] float64: sums of rows in class order
    bounds_ptr,  # [C + 1] int64: where each class begins
    out_ptr,  # [C] float64 out
    BLOCK: tl.constexpr,
):
    """Sums of classes, in a fixed order."""
    c = tl.program_id(0)
    begin = tl.load(bounds_ptr + c)
    end = tl.load(bounds_ptr + c + 1)
    total = tl.zeros([BLOCK], tl.float64)
    while begin < end:
        at = begin + tl.arange(0, BLOCK)
        total += tl.load(spread_ptr + at, mask=at < end, other=0.0)
        begin += BLOCK
    tl.store(out_ptr + c, tl.sum(total, axis=0))
