"""Parts of a batch, as ranks take them (``sslkernels/passes/vicreg.py``, Parts): what the passes
leave of them, merged, is what one pass leaves of the whole."""

from __future__ import annotations

import pytest
import torch

from sslkernels.backends import torch as plain
from sslkernels.passes.vicreg import Part, VICRegSettings, result_dtype

SIZES = [(12, 40), (40, 12), (35, 40), (36, 40)]  # the last two on both sides of 8 N = 7 D
SETTINGS = VICRegSettings(25.0, 25.0, 1.0, gamma=1.3)
LAMBDA, EPS = 0.1, 1e-2
# A part's own cuts, too: one row or column, and what is left.
BY_ROWS = [slice(0, 1), slice(1, None)]
BY_COLUMNS = [slice(0, 1), slice(1, 7), slice(7, None)]


def views(shape, dtype):
    g = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(shape, generator=g, dtype=torch.float64)
    y = x + 0.5 * torch.randn(shape, generator=g, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


def close(got, want, dtype, name):
    """Within what a product of operands of this dtype may lose."""
    assert got.dtype == result_dtype(dtype), name
    tolerance = {
        torch.float64: 1e-12,
        torch.float32: 3e-5,
        torch.float16: 2e-3,
        torch.bfloat16: 2e-2,
    }[dtype]
    assert (got.double() - want).abs().max() <= tolerance * want.abs().max(), name


def check_vicreg(passes, n, d, dtype):
    x, y = views((2, n, d), dtype)
    exact = x.double(), y.double()
    terms, mean, var, gram = plain.vicreg_forward(*exact, SETTINGS)
    grad = torch.tensor([1.0, 0.3, -0.2, 0.5])
    wanted = plain.vicreg_backward(grad.double(), *exact, mean, var, gram, SETTINGS, True, True)
    part = Part(n, d)
    grad = grad.to(result_dtype(dtype))
    wide = gram.shape[-1] == n
    shares = torch.zeros(4, dtype=torch.float64)
    products = torch.zeros_like(gram)
    for cut in BY_COLUMNS if wide else BY_ROWS:
        own = (slice(None), slice(None), cut) if wide else (slice(None), cut)
        moments = (slice(None), slice(None), cut if wide else slice(None))
        mine = x[own], y[own]
        some, own_mean, own_var, own_gram = passes.vicreg_forward(*mine, SETTINGS, part=part)
        shares += some.double()
        assert own_gram.shape == gram.shape and own_mean.dtype == torch.float64
        if wide:
            close(own_var.to(grad.dtype), var[moments], dtype, "variances of all rows")
        else:
            apart = torch.stack(mine).double() - own_mean.unsqueeze(2)
            squares = apart.square().sum(2) / (n - 1)
            assert torch.allclose(own_var, squares, rtol=1e-4, atol=1e-6), "sums of squares"
            offset = own_mean - mean
            own_gram = own_gram + mine[0].shape[1] * offset.unsqueeze(3) * offset.unsqueeze(2)
        products += own_gram
        saved = mean[moments].contiguous(), var[moments].contiguous(), gram.to(grad.dtype)
        got = passes.vicreg_backward(grad, *mine, *saved, SETTINGS, True, True, part=part)
        for found, want in zip(got, wanted, strict=True):
            close(found, want[own], dtype, "gradient")
        # Without the product: what a rank adds to a product it has been sent.
        rest = SETTINGS._replace(covariance=False)
        empty = gram.new_empty(0)
        none, alone = passes.vicreg_backward(
            grad, *mine, *saved[:2], empty, rest, False, True, part=part
        )
        assert none is None
        want = plain.vicreg_backward(grad.double(), *exact, mean, var, empty, rest, False, True)[1]
        close(alone, want[own], dtype, "gradient without covariance")
    if not wide:
        products.diagonal(dim1=2, dim2=3).zero_()
    close(products.to(grad.dtype), gram, dtype, "products")
    close(shares[1].to(grad.dtype), terms[1], dtype, "invariance")
    if wide:
        close(shares[2].to(grad.dtype), terms[2], dtype, "variance")


def check_barlow_twins(passes, n, d, dtype):
    x, y = views((n, d), dtype)
    exact = x.double(), y.double()
    _, columns, gram = plain.barlow_twins_forward(*exact, LAMBDA, EPS)
    grad = torch.tensor([1.0, 0.3, -0.2], dtype=result_dtype(dtype))
    options = LAMBDA, True, True
    wanted = plain.barlow_twins_backward(grad.double(), *exact, columns, gram, *options)
    on_alone = torch.tensor([grad[0] + grad[1], 0, 0], dtype=torch.float64)
    on = plain.barlow_twins_backward(on_alone, *exact, columns, gram, 0.0, True, True)
    part = Part(n, d)
    wide = gram.shape[0] == 2
    squares = None
    if not wide:
        squares = torch.stack([gram[0].square().sum(dim) for dim in (1, 0)])
    products = torch.zeros_like(gram)
    for cut in BY_COLUMNS if wide else BY_ROWS:
        own = (slice(None), cut) if wide else cut
        mine = x[own], y[own]
        some = columns[:, cut].contiguous() if wide else columns
        _, own_columns, own_gram = passes.barlow_twins_forward(*mine, LAMBDA, EPS, part=part)
        assert own_gram.shape == gram.shape
        if wide:
            close(own_columns.to(grad.dtype), some, dtype, "columns of all rows")
            products += own_gram
        else:
            alone = plain.barlow_twins_forward(*(z.double() for z in mine), LAMBDA, EPS, part=part)
            close(own_columns.to(grad.dtype), alone[1], dtype, "columns of own rows")
            if mine[0].shape[0] > 1:
                close(own_gram, alone[2], dtype, "product of own rows")
            else:
                assert not own_gram.any(), "product of one row"
        saved = some, gram.to(grad.dtype)
        got = passes.barlow_twins_backward(
            grad, *mine, *saved, *options, part=part, squares=squares
        )
        for found, want in zip(got, wanted, strict=True):
            close(found, want[own], dtype, "gradient")
        got = passes.barlow_twins_backward(
            grad, *mine, some, grad.new_empty(0), *options, part=part
        )
        for found, want in zip(got, on, strict=True):
            close(found, want[own], dtype, "gradient of the diagonal")
    if wide:
        close(products.to(grad.dtype), gram, dtype, "products")


def both(dtypes):
    """Decorates a test of (check, n, d, dtype) with all of them."""

    def decorate(test):
        for names, values in (
            ("check", [check_vicreg, check_barlow_twins]),
            ("n, d", SIZES),
            ("dtype", dtypes),
        ):
            test = pytest.mark.parametrize(names, values)(test)
        return test

    return decorate
