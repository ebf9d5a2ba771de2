"""What the tests of plans share: sizes next to the edges of kernels, results that start as NaN, and
one comparison."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from hypothesis import strategies as st

from tests.isa import WIDTHS
from tests.losses.common import arithmetic, limited_to

BLOCK = 96  # side of a block of a product
OTHER_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

isas = st.sampled_from(WIDTHS)


def near(*edges: int) -> st.SearchStrategy[int]:
    """Numbers next to one of these."""
    return st.sampled_from(edges).flatmap(lambda edge: st.integers(edge - 1, edge + 1))


lanes = st.integers(1, 40) | near(16, 32, BLOCK, 2 * BLOCK)
# Next to the steps that a product keeps in registers and to the columns that a buffer takes.
contractions = lanes | near(128, 256, 512) | st.integers(1, 700)

Results = Sequence[torch.Tensor]


def on_any_threads(
    isa: str, run: Callable[[Mapping[str, int]], Results], cuts: Mapping[str, int], threads: int
) -> Results:
    """The results of a plan, the same bits on one thread and on several."""
    with limited_to(isa), _empty_as_nan():
        several = run({**cuts, "threads": threads})
        alone = run({**cuts, "threads": 1})
    for one, other in zip(alone, several, strict=True):
        assert torch.equal(one.isnan(), other.isnan())
        assert torch.equal(one.nan_to_num(), other.nan_to_num())
    return several


@contextlib.contextmanager
def _empty_as_nan() -> Iterator[None]:
    """``torch.empty`` is filled with NaN: what a pass does not write shows."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def assert_within(
    got: torch.Tensor,
    want: torch.Tensor,  # float64
    magnitude: torch.Tensor | float,
    terms: int,
    dtype: torch.dtype,
) -> None:
    """``got`` and ``want`` add up the same ``terms`` numbers, whose sizes come to ``magnitude``, in
    two orders; each order costs at most a rounding of ``magnitude`` per term (and 16 for what makes
    a term). ``dtype`` is that of the data; the result is rounded to its own."""
    rounding, last = torch.finfo(arithmetic(dtype)).eps, torch.finfo(got.dtype)
    allowed = 2 * (terms + 16) * rounding * magnitude
    allowed = allowed + last.eps * (want.abs() + last.smallest_normal)
    error = (got.double() - want).abs()
    assert (error <= allowed).all(), f"error {error.max():.3g}, allowed {allowed.max():.3g}"
