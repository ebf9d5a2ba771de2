"""What the tests of Barlow Twins, NT-Xent and SIGReg share: views, and one comparison."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from sslkernels.backends import cpu
from tests.compare import assert_as_good
from tests.inputs import DTYPES, LAYOUTS, lay_out
from tests.isa import DETECTED

BACKENDS = ("cpu", "torch")
ISAS = ("portable", "avx2", "avx512")


@contextlib.contextmanager
def limited_to(isa: str) -> Iterator[None]:
    """The CPU kernels of one instruction set; those that this machine lacks are left out."""
    if isa in DETECTED:
        cpu._C.set_isa_limit(isa)
    try:
        yield
    finally:
        cpu._C.set_isa_limit(DETECTED[-1])


def make_view(
    n: int,
    d: int,
    seed: int,
    *,
    dtype: torch.dtype = torch.float32,
    layout: str = "contiguous",
    offset: float = 0.0,
    spread: float = 1.0,
    shared: float = 0.0,
    zero_rows: float = 0.0,
    constant_columns: float = 0.0,
) -> torch.Tensor:
    """Rows of normal numbers around ``offset``, ``shared`` of them the same for all seeds."""
    g = torch.Generator().manual_seed(seed)
    common = torch.randn(n, d, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    z = torch.randn(n, d, generator=g, dtype=torch.float64) * (1 - shared) + common * shared
    z = offset + spread * z
    z[:, torch.rand(d, generator=g) < constant_columns] = offset
    z[torch.rand(n, generator=g) < zero_rows] = 0
    return lay_out(z.to(dtype), layout)


@st.composite
def view_options(draw: st.DrawFn, max_rows: int = 110, max_columns: int = 70) -> dict[str, Any]:
    """Sizes and settings of :func:`make_view` for one view; the layout is drawn per view."""
    dtype = draw(st.sampled_from(DTYPES))
    half = dtype in (torch.float16, torch.bfloat16)
    return {
        "n": draw(st.one_of(st.integers(2, 12), st.integers(2, max_rows))),
        "d": draw(st.one_of(st.integers(1, 9), st.integers(1, max_columns))),
        "seed": draw(st.integers(0, 2**31)),
        "dtype": dtype,
        "offset": draw(st.sampled_from([0.0, 10.0] if half else [0.0, 1e4])),
        "spread": draw(st.sampled_from([1e-3, 1.0, 1e3])),
        "shared": draw(st.sampled_from([0.0, 0.9])),
    }


layouts = st.sampled_from(LAYOUTS)

Terms = Callable[..., Sequence[torch.Tensor]]


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def check(
    views: Sequence[torch.Tensor],
    ours: Terms,
    eager: Terms,
    exact_terms: Sequence[float],
    exact_gradients: Callable[[tuple[float, ...]], Sequence[np.ndarray]],
    *,
    times: float = 16.0,
    term_scales: Sequence[float] = (0.0, 0.0, 0.0),
    gradient_scales: Sequence[float] = (0.0, 0.0),
) -> None:
    """Three terms, and the gradients for random upstream gradients, against float64: within
    ``times`` what the eager formula loses in the same arithmetic, or one rounding.

    The scales are magnitudes that terms, and gradients for upstream gradients of 1, are
    differences of.
    """
    if views[0].dtype == torch.float64:
        times *= 8  # the reference is no more precise, and loses digits of its own
    seed = sum(views[0].shape)
    weights = tuple(torch.randn(3, generator=torch.Generator().manual_seed(seed)).tolist())
    results = []
    for terms, dtype in ((ours, views[0].dtype), (eager, arithmetic(views[0].dtype))):
        leaves = [z.detach().to(dtype).requires_grad_() for z in views]
        values = terms(*leaves)
        total = sum(w * t for w, t in zip(weights, values, strict=True))
        results.append((values, torch.autograd.grad(total, leaves)))
    (got, grads), (theirs, their_grads) = results
    for value, rival, want, scale in zip(got, theirs, exact_terms, term_scales, strict=True):
        assert value.dtype == arithmetic(views[0].dtype) and value.shape == ()
        assert_as_good(value, rival, want, times=times, scale=scale)
    wanted = exact_gradients(weights)
    size = sum(map(abs, weights))
    for grad, rival, want, scale in zip(grads, their_grads, wanted, gradient_scales, strict=False):
        assert grad.dtype == views[0].dtype
        fits = np.abs(want) < 0.99 * torch.finfo(grad.dtype).max  # float16 ends at 65504
        kept = torch.from_numpy(fits)
        assert_as_good(grad[kept], rival[kept], want[fits], times=times, scale=size * scale)
