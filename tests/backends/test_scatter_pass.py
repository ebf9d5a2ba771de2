"""The pooled scatter on every CPU path against float64 residuals in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends.cpu import _C
from sslkernels.backends.cpu.scatter import scatter_update as cpu_pass
from sslkernels.backends.torch import scatter as torch_scatter
from tests.inputs import DTYPES, LAYOUTS, lay_out
from tests.isa import WIDTHS

torch_pass = torch_scatter.scatter_update

Pass = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
Problem = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(autouse=True)
def _limits(threads: Callable[[int], None], isa_limit: object) -> None:
    """What a test sets is set back."""
    threads(2)


def problem(
    n: int, d: int, c: int, *, dtype: torch.dtype = torch.float32, layout: str = "contiguous",
    seed: int = 0, offset: float = 0.0, skipped: float = 0.1,
) -> Problem:  # fmt: skip
    """Rows near the centers of their classes, -1 for some."""
    g = torch.Generator().manual_seed(seed)
    centers = torch.randn(c, d, generator=g, dtype=torch.float64) + offset
    classes = torch.randint(c, (n,), generator=g)
    z = centers[classes] + torch.randn(n, d, generator=g, dtype=torch.float64)
    classes[torch.rand(n, generator=g) < skipped] = -1
    return lay_out(z.to(dtype), layout), classes, centers


def run(pass_: Pass, data: Problem, upper: torch.Tensor | None = None) -> np.ndarray:
    """The upper triangle."""
    d = data[0].shape[1]
    upper = torch.zeros(d, d, dtype=torch.float64) if upper is None else upper
    pass_(*data, upper)
    return upper.triu().numpy()


def expected(data: Problem) -> tuple[np.ndarray, float]:
    """The upper triangle, and the magnitude that its rounding errors go with."""
    z, classes, centers = (t.numpy() for t in (data[0].double(), data[1], data[2]))
    x = z[classes >= 0] - centers[classes[classes >= 0]]
    return np.triu(x.T @ x), float(np.square(x).sum(0).max(initial=0.0))


def check(data: Problem) -> None:
    want, magnitude = expected(data)
    for pass_ in (cpu_pass, torch_pass):
        np.testing.assert_allclose(run(pass_, data), want, rtol=0, atol=1e-13 * magnitude)


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(0, 300),
    d=st.sampled_from([0, 1, 2, 7, 8, 31, 96, 97, 130]),
    c=st.integers(1, 20),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**31),
    offset=st.sampled_from([0.0, 100.0]),
    skipped=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_equals_residuals(n, d, c, dtype, layout, seed, offset, skipped):
    kw = {"dtype": dtype, "layout": layout, "seed": seed, "offset": offset, "skipped": skipped}
    check(problem(n, d, c, **kw))


@pytest.mark.parametrize("isa", WIDTHS)
@pytest.mark.parametrize(
    ("n", "d"), [(9000, 40), (20000, 3), (1500, 300), (2100, 257), (600, 1100)]
)
def test_slabs_and_parts(n: int, d: int, isa: str) -> None:
    """More rows than a slab, few blocks and many."""
    _C.set_isa_limit(isa)
    check(problem(n, d, 11, seed=d))


def test_an_offset_costs_no_digits() -> None:
    z, classes, centers = problem(500, 20, 4, dtype=torch.float64, offset=1e9)
    near = (z - 1e9, classes, centers - 1e9)
    got, (want, magnitude) = run(cpu_pass, (z, classes, centers)), expected(near)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-13 * magnitude)


def test_adds_to_what_is_there_and_leaves_the_lower_triangle() -> None:
    data = problem(700, 130, 3)
    upper = torch.randn(130, 130, dtype=torch.float64)
    before = upper.clone()
    run(cpu_pass, data, upper)
    assert torch.equal(upper.tril(-1), before.tril(-1))
    want, magnitude = expected(data)
    got = (upper - before).triu().numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-13 * magnitude)


@pytest.mark.parametrize("pass_", [cpu_pass, torch_pass])
def test_what_is_not_finite_spreads_as_in_any_sum(pass_: Pass) -> None:
    z, classes, centers = problem(60, 9, 3, skipped=0.0)
    z[5, 2] = torch.nan
    got = run(pass_, (z, classes, centers))
    poisoned = np.zeros((9, 9), dtype=bool)
    poisoned[2] = poisoned[:, 2] = True
    np.testing.assert_array_equal(np.isnan(got), np.triu(poisoned))
    classes[5] = -1
    assert np.isfinite(run(pass_, (z, classes, centers))).all()
    centers[1] = torch.nan
    assert np.isnan(run(pass_, (z, classes, centers))[np.triu_indices(9)]).all()
    classes[classes == 1] = -1
    assert np.isfinite(run(pass_, (z, classes, centers))).all()


@pytest.mark.parametrize("d", [50, 400])
def test_bits_do_not_depend_on_threads(d: int) -> None:
    data = problem(3000, d, 7)
    results = []
    for threads in (1, 2, 3, 4, 4):
        torch.set_num_threads(threads)
        results.append(run(cpu_pass, data).tobytes())
    assert len(set(results)) == 1
