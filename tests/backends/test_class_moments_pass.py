"""``class_moments_update`` of the cpu and torch backends, on inputs built to cost digits."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkernels.backends import cpu
from sslkernels.backends import torch as plain
from tests.backends.class_moments_checks import (
    COLUMNS,
    SEGMENT,
    SEGMENTS,
    STRIPS,
    assert_right,
    empty,
    errors,
    moments,
    same,
)
from tests.inputs import DTYPES, LAYOUTS, labelled, lay_out
from tests.isa import DETECTED, LEVELS

BACKENDS = {"cpu": cpu, "torch": plain}


@pytest.fixture(params=BACKENDS)
def backend(request):
    before, chosen = torch.get_num_threads(), BACKENDS[request.param]
    if request.param == "torch":
        if "strips" in request.node.name or "-columns-" in request.node.name:
            pytest.skip("strips and columns are ways of the cpu backend")
        # Several chunks, a ragged last. Their operations are too small for threads: on a busy
        # machine those wait for each other most of the time.
        elements = 1 << (17 if "segments" in request.node.name else 14)
        chosen = SimpleNamespace(
            class_moments_update=functools.partial(plain.class_moments_update, elements=elements)
        )
        torch.set_num_threads(1)
    yield chosen
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [SEGMENT, SEGMENTS, STRIPS], ids=["segment", "segments", "strips"]
)
def test_every_way_through_the_rows(backend, shape, dtype):
    if shape is STRIPS and dtype.itemsize == 2:
        shape = dict(STRIPS, n=2 * STRIPS["n"])  # strips are for 16 MiB or more
    data = labelled(**shape, dtype=dtype, ignored=0.1)
    (state,) = moments(backend, data.z, data.labels, [data.num_classes])
    assert_right(state, data.z, data.labels)


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from(sorted(BACKENDS)),
    n=st.integers(0, 300),
    d=st.integers(1, 80),
    c=st.integers(1, 400),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    offset=st.sampled_from([0.0, 1e4, 1e6]),
    separation=st.sampled_from([0.0, 1e-3, 1e5]),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    ignore_index=st.sampled_from([-100, -1, 0, 2**40]),
    seed=st.integers(0, 2**31),
)
def test_small_shapes(
    name, n, d, c, dtype, layout, offset, separation, ignored, ignore_index, seed
):
    if dtype == torch.float16:
        offset, separation = min(offset, 1e4), min(separation, 10.0)
    data = labelled(
        n, d, c, seed=seed, dtype=dtype, layout=layout, offset=offset, separation=separation,
        ignored=ignored, ignore_index=ignore_index,
    )  # fmt: skip
    (state,) = moments(BACKENDS[name], data.z, data.labels, [c], ignore_index)
    assert_right(state, data.z, data.labels, ignore_index)


@pytest.mark.parametrize(
    "shape", [SEGMENT, SEGMENTS, STRIPS], ids=["segment", "segments", "strips"]
)
@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_offsets_and_collapsed_classes(backend, shape, offset):
    """A common offset of 1e4 to 1e6 spreads; classes 1e5 spreads apart."""
    data = labelled(**shape, offset=offset)
    (state,) = moments(backend, data.z, data.labels, [data.num_classes])
    assert_right(state, data.z, data.labels)
    data = labelled(**shape, separation=1e5)
    (state,) = moments(backend, data.z, data.labels, [data.num_classes])
    assert_right(state, data.z, data.labels)


@pytest.mark.parametrize("at", [0, 1, 5, "last"])
@pytest.mark.parametrize("shape", [SEGMENT, STRIPS], ids=["segment", "strips"])
def test_outlier_row_of_a_class(backend, shape, at):
    data = labelled(**shape)
    for c in range(data.num_classes):
        rows = torch.nonzero(data.labels == c).squeeze(1)
        data.z[rows[-1 if at == "last" else at]] += 1e6
    (state,) = moments(backend, data.z, data.labels, [data.num_classes])
    assert_right(state, data.z, data.labels)


def test_half_precision_near_its_limit(backend):
    data = labelled(20_000, 48, 5)
    z = (60_000 + 1500 * data.z).clamp(-65504, 65504).half()
    (state,) = moments(backend, z, data.labels, [5])
    assert_right(state, z, data.labels)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e22, 1e37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [SEGMENT, STRIPS], ids=["segment", "strips"])
def test_squares_beyond_float32(backend, shape, dtype, scale):
    data = labelled(**shape)
    z = (data.z * scale).to(dtype)
    (state,) = moments(backend, z, data.labels, [data.num_classes])
    assert_right(state, z, data.labels)


def test_equal_rows_have_no_scatter(backend):
    for n in (1, 2, 3, 7, 8, 13, 3000):
        for z in (torch.randn(1, 33) * 1e3, torch.zeros(1, 33)):
            (state,) = moments(backend, z.expand(n, 33), torch.zeros(n, dtype=torch.int64), [2])
            assert state[0].tolist() == [n, 0] and state[2].tolist() == [0.0, 0.0]
            assert torch.equal(state[1][0], z[0].double())


def test_drifting_data_in_pieces(backend):
    """A stream that wanders far from where it began; whole and in pieces agree."""
    data = labelled(6000, 20, 7)
    z = data.z + torch.linspace(0, 1e5, 6000).unsqueeze(1)
    states = empty([7], 20)
    for i in range(0, 6000, 113):
        piece = data.labels[i : i + 113].reshape(1, -1)
        backend.class_moments_update(z[i : i + 113], piece, states, -100)
    assert_right(states[0], z, data.labels)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bad_rows_poison_their_class_only(backend, dtype, bad):
    for shape in (SEGMENT, SEGMENTS):
        assert_poison_is_contained(backend, labelled(**shape, dtype=dtype), bad)


def test_bad_rows_poison_their_class_only_in_strips():
    assert_poison_is_contained(cpu, labelled(**STRIPS), np.nan)


def assert_poison_is_contained(backend, data, bad):
    z = data.z.clone()
    row = torch.nonzero(data.labels == 3)[5]
    z[row, 2] = bad
    (state,) = moments(backend, z, data.labels, [data.num_classes])
    counts, mean, m2 = state
    assert counts[3] == (data.labels == 3).sum()
    assert not torch.isfinite(mean[3, 2]) and torch.isnan(m2[3])
    (clean,) = moments(backend, data.z, data.labels, [data.num_classes])
    mean[3], m2[3] = clean[1][3], clean[2][3]
    assert same([state], [clean])


def test_more_classes_than_rows_and_no_rows(backend):
    data = labelled(64, 16, 50_000)
    (state,) = moments(backend, data.z, data.labels, [50_000])
    assert_right(state, data.z, data.labels)
    before = [t.clone() for t in state]
    backend.class_moments_update(data.z[:0], torch.empty(1, 0, dtype=torch.int64), [state], -100)
    assert same([before], [state])


LABELINGS = {
    "hierarchy": lambda y, c, g: [y // 5, y, y % 1, y // 2 // 5],
    "crossed": lambda y, c, g: [y, y % 3, y // 3, torch.randint(c, y.shape, generator=g)],
    "random": lambda y, c, g: [y, torch.randint(40, y.shape, generator=g), torch.zeros_like(y)],
    "same": lambda y, c, g: [y, y, c - 1 - y],
}


@pytest.mark.parametrize("kind", LABELINGS)
@pytest.mark.parametrize(
    "shape",
    [SEGMENT, SEGMENTS, STRIPS, COLUMNS],
    ids=["segment", "segments", "strips", "columns"],
)
def test_several_labelings(backend, shape, kind):
    data = labelled(**shape, offset=1e3)
    c = data.num_classes
    g = torch.Generator().manual_seed(1)
    rows = torch.stack(LABELINGS[kind](data.labels, c, g))
    # Rows that every labeling skips, rows and a class that only the first skips.
    rows[:, ::17] = -100
    rows[0, 3::50] = -100
    rows[0, data.labels == 2] = -100
    sizes = [max(c, int(row.max()) + 1) for row in rows]
    for state, row in zip(moments(backend, data.z, rows, sizes), rows, strict=True):
        assert_right(state, data.z, row)


def test_skipped_superclass_of_some_fine_classes(backend):
    data = labelled(**SEGMENTS)
    coarse = (data.labels // 10).masked_fill(data.labels < 60, -100)
    rows = torch.stack([coarse, data.labels])
    for state, row in zip(moments(backend, data.z, rows, [30, 300]), rows, strict=True):
        assert_right(state, data.z, row)


@pytest.mark.parametrize("value", [-1, 11, 2**62, -(2**63)])
@pytest.mark.parametrize("k", [0, 1])
def test_bad_label_is_named_and_nothing_changes(backend, value, k):
    for n in (700, 90_000):
        data = labelled(n, 5, 11)
        rows = torch.stack([data.labels, data.labels])
        states = moments(backend, data.z, rows, [11, 11])
        before = [tuple(t.clone() for t in s) for s in states]
        rows[k, n - 100] = rows[k, n - 3] = value
        with pytest.raises(ValueError, match=rf"labels\[{k}\]: row {n - 100} holds {value}, "):
            backend.class_moments_update(data.z, rows, states, -100)
        assert same(before, states)
    with pytest.raises(ValueError, match=f"labels: row {n - 100} holds"):
        backend.class_moments_update(data.z, rows[k : k + 1], states[:1], -100)


@pytest.mark.parametrize("layout", ["zero rows", "zero columns", "overlapping", *LAYOUTS])
def test_strides(backend, layout):
    for n, d, c in ((500, 60, 9), (40_000, 70, 50)):
        data = labelled(n, d, c)
        z = data.z
        if layout == "zero rows":
            z = z[:1].expand(n, d)
        elif layout == "zero columns":
            z = z[:, :1].expand(n, d)
        elif layout == "overlapping":
            z = torch.randn(n + d).as_strided((n, d), (1, 1))
        else:
            z = lay_out(z, layout)
        (state,) = moments(backend, z, data.labels, [c])
        assert_right(state, z, data.labels)
        if layout in LAYOUTS:
            # The order of rows is the same, so the sums nearly are: chunks may round differently.
            (plain_state,) = moments(backend, data.z, data.labels, [c])
            torch.testing.assert_close(state[2], plain_state[2], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_depend_on_neither_threads_nor_repetition(threads, dtype):
    for shape in (SEGMENT, SEGMENTS, STRIPS, COLUMNS, dict(n=50_000, d=40, num_classes=1)):
        data = labelled(**shape, dtype=dtype)
        c = data.num_classes
        rows = torch.stack([data.labels, data.labels // 4, data.labels.flip(0)])
        threads(1)
        first = moments(cpu, data.z, rows, [c] * 3)
        for count in (1, 2, 3, 4, 4):
            threads(count)
            assert same(first, moments(cpu, data.z, rows, [c] * 3))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa_limit, level, dtype):
    if level not in DETECTED:
        pytest.skip(f"this machine has no {level}")
    isa_limit(level)
    for shape in (dict(n=400, d=41, num_classes=60), dict(n=12_000, d=77, num_classes=9)):
        data = labelled(**shape, dtype=dtype, offset=100.0)
        (state,) = moments(cpu, data.z, data.labels, [data.num_classes])
        assert_right(state, data.z, data.labels)


@pytest.mark.parametrize("level", LEVELS[:3])
def test_every_half_precision_value(isa_limit, level):
    """Each finite float16 and bfloat16 is widened to its own value, subnormals included."""
    if level not in DETECTED:
        pytest.skip(f"this machine has no {level}")
    isa_limit(level)
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        z = bits.view(dtype).reshape(256, 256)
        _, mean, m2 = moments(cpu, z, torch.arange(256), [256])[0]
        finite = torch.isfinite(z)
        assert torch.equal(mean[finite], z.double()[finite])
        assert not torch.isfinite(mean[~finite]).any()
        assert torch.equal(torch.isnan(m2), ~finite.all(1)) and not m2[finite.all(1)].any()


@pytest.mark.parametrize("labels", ["random", "one class"])
def test_no_worse_than_torch_in_the_same_dtype(labels):
    """Against the two-pass float32 torch that users write, on data that is kind to it."""
    data = labelled(200_000, 64, 50)
    y = data.labels if labels == "random" else torch.zeros_like(data.labels)
    n = torch.bincount(y, minlength=50).clamp(min=1)
    mean = torch.zeros(50, 64).index_add_(0, y, data.z) / n.unsqueeze(1)
    m2 = torch.zeros(50).index_add_(0, y, (data.z - mean[y]).square().sum(1))
    theirs = errors((torch.bincount(y, minlength=50), mean.double(), m2.double()), data.z, y)
    ours = errors(moments(cpu, data.z, y, [50])[0], data.z, y)
    assert ours[0] <= 0.2 * theirs[0] and ours[1] <= 0.2 * theirs[1]
