"""The order of a symmetric product's tiles, and one of its epilogues."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from sslkernels.backends.triton.core import launch
from sslkernels.backends.triton.product import gram, tiles


@triton.jit
def _order(out_ptr, SIDE, GROUP):
    t = tl.program_id(0)
    i, j = gram.tile_of(t, SIDE, GROUP)
    tl.store(out_ptr + 2 * t, i)
    tl.store(out_ptr + 2 * t + 1, j)


@pytest.mark.parametrize("group", [1, 3, 8])
@pytest.mark.parametrize("side", [1, 2, 7, 8, 9, 17])
def test_every_upper_tile_once(side, group, device) -> None:
    count = side * (side + 1) // 2
    out = torch.full((count, 2), -1, dtype=torch.int32, device=device)
    _order[(count,)](out, side, group)
    expected = {(i, j) for i in range(side) for j in range(i, side)}
    assert {tuple(row) for row in out.tolist()} == expected


@pytest.mark.parametrize("off", [1 - 2.0**-22, 1 + 2.0**-22])
def test_order_trusts_no_square_root(off, device, monkeypatch) -> None:
    """That of a GPU errs by a unit in the last place."""
    if not launch.INTERPRETED:
        pytest.skip("the device has one of its own")
    from triton.runtime.interpreter import InterpreterBuilder

    def sqrt(builder, value):
        return builder.unary_op(value, lambda x: np.sqrt(x) * x.dtype.type(off))

    monkeypatch.setattr(InterpreterBuilder, "create_sqrt", sqrt)
    test_every_upper_tile_once(17, 8, device)


@pytest.mark.parametrize("m, k", [(5, 16), (130, 48), (40, 1040)])
@pytest.mark.parametrize("planes", [1, 2])
def test_squares_of_a_product(m, k, planes, device) -> None:
    exact = torch.randn(2, m, k, generator=torch.Generator().manual_seed(0)).to(device)
    hi = (exact.view(torch.int32) & -0x2000).view(torch.float32)
    operand = torch.stack((hi, exact - hi)) if planes == 2 else hi[None]
    where = launch.device_of(exact)
    tile = tiles.gram(m, torch.float32, where)[0]
    plan = gram.plan(2, m, k, 2 * planes - 1, tile, where)
    product = exact.new_empty((2, m, m))
    squares = exact.new_empty((2, plan.programs), dtype=torch.float64)
    with launch.on_device(exact):
        gram.gram(operand, "squares", (product, squares, 0.5, 1.0), plan, "tf32")
    z = (exact if planes == 2 else hi).double()
    true = z @ z.mT
    # A few roundings in fp32 of sums whose terms add up to |z_i| |z_j|.
    atol = 2.0**-20 * float(true.amax())
    torch.testing.assert_close(product.double(), true, rtol=0, atol=atol)
    torch.testing.assert_close(squares.sum(1) * 4, true.square().sum((1, 2)), rtol=1e-6, atol=0)
