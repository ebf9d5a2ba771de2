"""Class moments on the CPU however rows, columns and labels are cut, on each way through the rows:
segments of one row, a last strip of one, parts without a block."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends import cpu
from tests.backends.class_moments_checks import moments
from tests.backends.statistics_plans import OTHER_DTYPES, assert_same, lanes, near, on_any_threads
from tests.inputs import LAYOUTS, labelled, lay_out
from tests.isa import WIDTHS
from tests.losses.common import limited_to


@st.composite
def label_cuts(draw):
    """None of these changes a bit."""
    return {
        "label_share": draw(st.integers(1, 20)),
        "label_block": draw(st.integers(1, 40)),
        "digit_bits": draw(st.integers(1, 4)),
    }


@st.composite
def ways(draw, n, columns):
    """Cuts of a way through the rows; the last is for labelings that cross."""
    way = draw(st.sampled_from(["columns"] if columns else ["segments", "strips"]))
    if way == "segments":
        return {"strips": 0, "segment": draw(st.integers(1, n))}
    if way == "strips":
        rows = draw(st.integers(1, n))
        return {"strips": 1, "strip": rows, "task": draw(st.integers(1, n // rows + 1))}
    parts, numbered = draw(st.integers(1, 16)), draw(st.integers(1, n))
    return {"strips": 0, "columns": 1, "parts": parts, "numbered": numbered}


def assert_moments(state, z, labels, *, columns):
    """float64 rounds once per row that is merged and per square. In columns up to 64 differences to
    a middle add up in float32, on average at most twice as far from it as from their mean."""
    x, y, (n, d) = z.double().numpy(), labels.numpy(), z.shape
    eps = np.finfo(np.float64 if z.dtype == torch.float64 else np.float32).eps
    roundings = 512 if columns else 128 + n + d
    counts, mean, m2 = (t.numpy() for t in state)
    from_middle = np.abs(x - np.median(x, axis=0)).max(0) + np.abs(x).max(0) * 2.0**-24
    for c in range(len(counts)):
        rows = x[y == c]
        assert counts[c] == len(rows)
        want = rows.mean(0) if len(rows) else np.zeros(d)
        assert (np.abs(mean[c] - want) <= roundings * eps * from_middle).all()
        assert abs(m2[c] - ((rows - want) ** 2).sum()) <= roundings * eps * m2[c] + 1e-12


def check(isa, dtype, data, *, columns):
    n = data.draw(st.integers(4, 40) | near(64, 128, 256))
    d = data.draw(lanes | near(128, 256))
    c = data.draw(st.sampled_from([2, 3, 5, 9, 70]))
    cuts = data.draw(ways(n, columns))
    made = labelled(n, d, c, seed=n + d, dtype=dtype, separation=1.0, ignored=0.1)
    z, fine = made.z, made.labels
    coarse = (fine // 2).masked_fill(fine < 0, -100)
    labels = torch.stack(
        [coarse, fine, torch.zeros_like(fine), fine.flip(0) % 2][: 2 + 2 * columns]
    )
    if columns:
        labels[1, :4] = torch.tensor([0, 0, 1, 1])
        labels[0] = (labels[1] // 2).masked_fill(labels[1] < 0, -100)
        labels[3, :4] = torch.tensor([0, 1, 0, 1])
    else:
        z = lay_out(z, data.draw(st.sampled_from(LAYOUTS)))
        if z.stride(1) != 1 and d > 1:
            cuts["stage"] = data.draw(st.integers(1, n))

    def run(given):
        states = moments(cpu, z, labels, [c] * len(labels), cuts=given)
        return [t for state in states for t in state]

    got = on_any_threads(
        isa, run, {**cuts, **data.draw(label_cuts())}, data.draw(st.integers(1, 5))
    )
    with limited_to(isa):
        assert_same(got, run(cuts))
    for k, row in enumerate(labels):
        assert_moments(got[3 * k : 3 * k + 3], z, row, columns=columns)


@pytest.mark.parametrize("isa", WIDTHS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_segments_and_strips(isa, data):
    check(isa, torch.float64, data, columns=False)


@pytest.mark.parametrize("isa", WIDTHS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_columns(isa, data):
    check(isa, torch.float32, data, columns=True)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=str)
@settings(max_examples=20, deadline=None)
@given(isa=st.sampled_from(WIDTHS), data=st.data())
def test_other_dtypes(dtype, columns, isa, data):
    check(isa, dtype, data, columns=columns)


@settings(max_examples=40, deadline=None)
@given(cuts=label_cuts(), n=st.integers(1, 90), k=st.integers(1, 3), data=st.data())
def test_the_first_bad_label_is_found_however_labels_are_cut(cuts, n, k, data):
    labels = torch.zeros(k, n, dtype=torch.int64)
    bad = data.draw(st.sets(st.integers(0, k * n - 1), min_size=1, max_size=4))
    labels.view(-1)[list(bad)] = 7
    row = min(bad) % n
    name = "labels" if k == 1 else rf"labels\[{min(bad) // n}\]"
    cuts["threads"] = data.draw(st.integers(1, 5))
    with pytest.raises(ValueError, match=f"^{name}: row {row} holds 7, "):
        moments(cpu, torch.zeros(n, 2), labels, [7] * k, cuts=cuts)


@pytest.mark.parametrize(
    "run",
    [
        lambda cuts: moments(cpu, torch.zeros(3, 2), torch.zeros(1, 3).long(), [2], cuts=cuts),
        lambda cuts: cpu.unit_moments_forward(torch.ones(3, 2), cuts),
        lambda cuts: cpu.nearest_center_forward(torch.ones(3, 2), torch.ones(2, 2), True, cuts),
        lambda cuts: cpu.cdnv_sum(torch.eye(3).double(), *torch.ones(2, 3).double().unbind(), cuts),
    ],
    ids=["class_moments_update", "unit_moments", "nearest_center", "cdnv_sum"],
)
def test_cuts_of_an_unknown_name_are_errors(run):
    with pytest.raises(ValueError, match=r"^cuts: slabs: nothing of that name is cut$"):
        run({"slabs": 3})
