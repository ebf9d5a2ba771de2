"""The losses' kernels however their work is cut: parts without a step, a last split shorter than a
block, one row or column more than a tile, several turns in one workspace.

Every number is held to the same pass of the torch backend in float64.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from sslkernels.backends import torch as plain
from sslkernels.backends import triton as kernels
from sslkernels.backends.triton.product import tiles
from sslkernels.passes.sigreg import SIGRegSettings
from sslkernels.passes.vicreg import VICRegSettings
from tests.triton import plans
from tests.triton.loss_cases import FLOOR, views

FP32 = torch.float32


def same(ours: tuple, exact: tuple, names: str, times: float = 1.0) -> None:
    """Each to ``times`` 8 roundings of fp32 of the largest of its numbers: what sums of at
    most 33 numbers of size 1 keep in any order."""
    for name, one, other in zip(names.split(), ours, exact, strict=True):
        assert (one is None) == (other is None), name
        if one is None:
            continue
        scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
        assert one.shape == other.shape, name
        error = (one.double() - other.double()).abs().max() if other.numel() else 0.0
        assert error <= times * FLOOR[FP32] * scale, (name, float(error), scale)


def as_double(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(t.double() for t in tensors)


@plans.few
@given(p=st.integers(1, 2), n=plans.sides(), d=plans.sides(), one=st.booleans(), cuts=plans.cuts())
def test_vicreg(p: int, n: int, d: int, one: bool, cuts: tiles.Cuts) -> None:
    n += n == 1
    device = torch.device("cpu" if kernels.INTERPRETED else "cuda")
    x, y = (z.unflatten(0, (n, p)).transpose(0, 1) for z in views(n * p, d, FP32, device))
    x, y = x.contiguous(), None if one else y.contiguous()
    options = VICRegSettings(25.0, 25.0, 1.0, invariance=not one)
    grad = torch.tensor([0.7, -0.3, 0.5, 1.1], device=device)
    wanted = plain.vicreg_forward(x.double(), None if one else y.double(), options)
    got = kernels.vicreg_forward(x, y, options, cuts)
    same(got, wanted, "terms mean var gram", times=d)
    needs = (True, not one)
    wanted = plain.vicreg_backward(
        grad.double(), x.double(), None if one else y.double(), *wanted[1:], options, *needs
    )
    got = kernels.vicreg_backward(grad, x, y, *got[1:], options, *needs, cuts)
    same(got, wanted, "grad_x grad_y", times=4)


@plans.few
@given(n=plans.sides(), d=plans.sides(), cuts=plans.cuts())
def test_barlow_twins(n: int, d: int, cuts: tiles.Cuts) -> None:
    n += n == 1
    device = torch.device("cpu" if kernels.INTERPRETED else "cuda")
    x, y = views(n, d, FP32, device)
    grad = torch.tensor([0.7, -0.3, 0.5], device=device)
    wanted = plain.barlow_twins_forward(*as_double(x, y), 0.1, 1e-2)
    got = kernels.barlow_twins_forward(x, y, 0.1, 1e-2, cuts)
    same(got, wanted, "terms columns gram", times=4)
    wanted = plain.barlow_twins_backward(*as_double(grad, x, y), *wanted[1:], 0.1, True, True)
    got = kernels.barlow_twins_backward(grad, x, y, *got[1:], 0.1, True, True, cuts)
    same(got, wanted, "grad_x grad_y", times=4)


part = st.floats(0, 1, exclude_max=True)


@plans.few
@given(
    n=plans.sides(),
    d=plans.sides(),
    ends=st.none() | st.tuples(part, part),
    cuts=plans.cuts(),
    need_x=st.booleans(),
    need_radial=st.booleans(),
)
def test_nt_xent(
    n: int,
    d: int,
    ends: tuple[float, float] | None,
    cuts: tiles.Cuts,
    need_x: bool,
    need_radial: bool,
) -> None:
    own = None
    if ends:  # a range of the samples
        first, last = sorted(int(n * end) for end in ends)
        own = first, max(1, last - first)
    device = torch.device("cpu" if kernels.INTERPRETED else "cuda")
    x, y = views(n, d, FP32, device)
    grad = torch.tensor([0.7, -0.3, 0.5], device=device)
    wanted = plain.nt_xent_forward(*as_double(x, y), 0.5, own)
    got = kernels.nt_xent_forward(x, y, 0.5, own, cuts)
    same(got, wanted, "terms rows", times=4)
    _, rows = plain.nt_xent_forward(*as_double(x, y), 0.5)
    how = (need_x, True, need_radial, own)
    wanted = plain.nt_xent_backward(*as_double(grad, x, y), rows, 0.5, *how)
    got = kernels.nt_xent_backward(grad, x, y, rows, 0.5, *how, False, cuts)
    same(got, wanted, "grad_x grad_y radial", times=4)


@plans.few
@given(n=plans.sides(), d=plans.sides(), slices=plans.sides(1), cuts=plans.cuts())
def test_sigreg(n: int, d: int, slices: int, cuts: tiles.Cuts) -> None:
    device = torch.device("cpu" if kernels.INTERPRETED else "cuda")
    z, _ = views(n, d, FP32, device)
    options, step = SIGRegSettings(slices, 3, 0.0, 3.0, 1), torch.tensor(5)
    wanted = plain.sigreg_forward(z.double(), step, options)
    same((kernels.sigreg_forward(z, step, options, cuts),), (wanted,), "sums", times=n)
    grad = torch.randn_like(wanted)
    wanted = plain.sigreg_backward(grad, z.double(), step, options)
    same((kernels.sigreg_backward(grad, z, step, options, cuts),), (wanted,), "grad", times=slices)
