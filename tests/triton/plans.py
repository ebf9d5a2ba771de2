"""What the tests of plans share: plans, and sizes beside their blocks."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from sslkernels.backends.triton.product import tiles

# Few, and those that fail not made smaller: the interpreter takes a second for some.
few = settings(
    max_examples=4,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)

BLOCK = 16


def sides(most: int = 2) -> st.SearchStrategy[int]:
    """1 to ``most`` blocks of 16, and one more or less."""
    near = st.builds(lambda k, by: k * BLOCK + by, st.integers(1, most), st.integers(-1, 1))
    return st.integers(1, 8) | near


def _streams(widest: int = 32) -> st.SearchStrategy[tiles.Stream]:
    block = st.sampled_from([b for b in (16, 32) if b <= widest])
    return st.builds(tiles.Stream, block, block, st.just(4), st.just(1))


@st.composite
def cuts(draw: st.DrawFn) -> tiles.Cuts:
    """Blocks of 16 or 32, and any numbers of parts: more than there are steps, too."""
    block = st.sampled_from((16, 32))
    return tiles.Cuts(
        moments=draw(_streams()),
        row_splits=draw(st.integers(1, 5)),
        center=draw(_streams()),
        rows=draw(_streams()),
        gram=tiles.Gram(draw(block), 16, 4, 1),
        backward=tiles.Backward(draw(block), draw(block), 16, 4, 1),
        splits=draw(st.integers(1, 7)),
        at_once=draw(st.integers(1, 40)),
        group=draw(st.integers(1, 3)),
    )
