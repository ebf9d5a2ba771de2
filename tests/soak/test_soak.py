"""The soak itself: what it takes for wrong, and that a case can be repeated."""

import math
import re

import pytest
import torch

import sslkernels as ssk
from tests.soak.bounds import Wrong, between, hold
from tests.soak.draws import Draw
from tests.soak.run import NAMES, Options, one


@pytest.mark.parametrize(
    "got, want, allowed, words",
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0, None),
        ([1.0, 2.1], [1.0, 2.0], [0.0, 0.2], None),
        ([math.nan, math.inf], [math.nan, math.inf], 0.0, None),
        ([1.0, 2.1], [1.0, 2.0], [0.2, 0.0], r"x\[1\]: 2.1, expected 2, off by 0.1 of 0 \(1 of 2"),
        ([1.0, math.nan], [1.0, 2.0], 9.0, r"x\[1\]: nan"),
        ([1.0, 2.0], [1.0, math.nan], 9.0, r"expected nan"),
        ([1.0], [1.0, 2.0], 9.0, r"shape \[1\], expected \[2\]"),
    ],
)
def test_a_bound_holds_for_every_element(got, want, allowed, words):
    if words is None:
        hold("x", got, want, allowed)
        return
    with pytest.raises(Wrong, match=words):
        hold("x", got, want, allowed)


def test_shares_lie_between():
    between("x", [0.5, math.nan], [0.5, math.nan], [0.6, math.nan])
    for got in (0.4, 0.7, math.nan):
        with pytest.raises(Wrong, match=r"expected from 0\.5 to 0\.6"):
            between("x", got, 0.5, 0.6)


def test_a_seed_draws_the_same_case():
    def drawn(seed):
        draw = Draw(seed)
        rows = draw.embeddings(*draw.shape(elements=1e4), torch.float32)
        return rows.exact, draw.labels(len(rows.exact), 7)

    assert all(map(torch.equal, drawn(3), drawn(3)))
    assert drawn(3)[0].shape != drawn(4)[0].shape


def test_a_wrong_result_is_found_and_its_line_repeats_it(monkeypatch):
    found = Options("uniformity", 5, None, "portable", 1, 0.02)
    assert one(found) is None
    right = ssk.uniformity
    monkeypatch.setattr(ssk, "uniformity", lambda *a, **k: right(*a, **k) * (1 + 1e-3))
    assert re.search("expected .*, off by", one(found))
    assert found.line() == (
        "python -m tests.soak --case 5 --only uniformity --isa portable --threads 1 --scale 0.02"
    )
    assert found.name in NAMES
