"""What the tests of the statistics' plans share: sizes next to the edges of kernels, and runs of
one plan on one thread and on several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from hypothesis import strategies as st

from tests.losses.common import limited_to

OTHER_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
Cuts = Mapping[str, int]


def near(*edges: int) -> st.SearchStrategy[int]:
    """Numbers next to one of these."""
    return st.sampled_from(edges).flatmap(lambda edge: st.integers(edge - 1, edge + 1))


lanes = st.integers(1, 40) | near(16, 32, 96, 192)


def on_any_threads(
    isa: str, run: Callable[[Cuts], Sequence[torch.Tensor]], cuts: Cuts, threads: int
) -> Sequence[torch.Tensor]:
    """The results of a plan, the same bits on one thread and on several."""
    with limited_to(isa), _empty_as_nan():
        several = run({**cuts, "threads": threads})
        alone = run({**cuts, "threads": 1})
    assert_same(several, alone)
    return several


def assert_same(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> None:
    """The same bits, but for those of NaN."""
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x.isnan(), y.isnan()) and torch.equal(x.nan_to_num(), y.nan_to_num())


@contextlib.contextmanager
def _empty_as_nan() -> Iterator[None]:
    """``torch.empty`` is filled with NaN: what a pass does not write shows."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
