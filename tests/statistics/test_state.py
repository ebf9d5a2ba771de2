"""What every accumulator keeps: saved, loaded, copied, merged, in and out of inference mode."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import sslkernels as ssk
from tests.statistics.every import ACCUMULATORS, LABELS, C, D, N, Z, assert_same

each = pytest.mark.parametrize("name", ACCUMULATORS)
HALVES = (slice(None, 9), slice(9, None))


def made(name, m=None):
    return ACCUMULATORS[name].make(ssk.class_moments(Z, LABELS, C) if m is None else m)


def fed(name, acc, rows=slice(None)):
    return ACCUMULATORS[name].update(acc, Z[rows], LABELS[rows])


def read(name, acc):
    return ACCUMULATORS[name].read(acc)


LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT if t.ndim > 1 else t,
    "strided": lambda t: torch.stack([t, t + 1], -1)[..., 0],
    "negated lazily": lambda t: torch._neg_view(-t),
    "parameter": lambda t: torch.nn.Parameter(t, requires_grad=t.is_floating_point()),
    "array": lambda t: t.numpy(),
    "Fortran array": lambda t: np.array(t.numpy(), order="F"),
}


@each
@pytest.mark.parametrize("layout", LAYOUTS)
def test_saved_tensors_load_whatever_their_layout(name, layout):
    saved = fed(name, made(name)).state_dict()
    state = {key: LAYOUTS[layout](t) for key, t in saved.items()}
    loaded = made(name).load_state_dict(state)
    assert_same(read(name, loaded), read(name, fed(name, made(name))))
    # It is a copy, and goes on as one that never was saved.
    if name != "NeuralCollapsePass":  # which counts rows
        assert_same(read(name, fed(name, loaded)), read(name, fed(name, fed(name, made(name)))))
    assert_same(list(saved.values()), list(fed(name, made(name)).state_dict().values()))


@each
@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (lambda t: t.to(torch.float32), ValueError, r"expected .*, got torch.float32"),
        (lambda t: t.unsqueeze(0), ValueError, r"expected .*, got torch.\w+ \[1"),
        (lambda t: t.to("meta"), TypeError, "got one on meta"),
        (lambda t: t.tolist(), TypeError, "got (list|int|float)"),
    ],
)
def test_saved_tensors_that_do_not_fit_change_nothing(name, change, error, reason):
    acc = fed(name, made(name))
    before = read(name, acc)
    state = made(name).state_dict()  # of no data
    last = list(state)[-1]
    state[last] = change(state[last])
    with pytest.raises(error, match=f"^state: {last}:? .*{reason}"):
        acc.load_state_dict(state)
    del state[last]
    with pytest.raises(ValueError, match=f"state: lacks '{last}'"):
        acc.load_state_dict(state)
    assert_same(read(name, acc), before)


@each
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda acc: pickle.loads(pickle.dumps(acc))])
def test_copies_go_their_own_way(name, copied):
    acc = fed(name, made(name), HALVES[0])
    other = copied(acc)
    before = acc.state_dict()
    want = read(name, fed(name, fed(name, made(name), HALVES[0]), HALVES[1]))
    assert_same(read(name, fed(name, other, HALVES[1])), want)
    assert_same(list(acc.state_dict().values()), list(before.values()))


MODES = [(made, updated) for made in (True, False) for updated in (True, False)]


@each
@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize(("inside", "updated_inside"), MODES)
def test_inference_mode_leaves_no_trace(name, inside, updated_inside, backend):
    """Made, and updated, inside or outside of it; then all that changes state, outside."""
    with ssk.use_backend(backend):
        want = read(name, fed(name, fed(name, made(name), HALVES[0]), HALVES[1]))
        with torch.inference_mode(inside):
            acc, other = made(name), made(name)
        with torch.inference_mode(updated_inside):
            fed(name, acc, HALVES[0])
            fed(name, other, HALVES[1])
            acc = made(name).merge(acc)
        acc.merge(other)
        assert_same(read(name, acc), want, rtol=1e-6)
        state = acc.state_dict()
        assert_same(read(name, acc.load_state_dict(state)), want, rtol=1e-6)


def test_what_is_derived_in_inference_mode_can_be_updated_outside():
    scatter = fed("PooledScatter", made("PooledScatter"))
    coarser = ssk.class_moments(Z, LABELS.clamp(min=-1) // 2, 2, ignore_index=-1)
    with torch.inference_mode():
        derived = [
            scatter.moments.coarsen([0, 0, 1, 1]),
            scatter.moments.to("cpu"),
            scatter.coarsen([0, 0, 1, 1]),
            scatter.total(),
            scatter.within(coarser),
        ]
    with ssk.use_backend("torch"):
        for acc in derived:
            rows = int(getattr(acc, "moments", acc).counts.sum())
            acc.update(Z, torch.zeros(N, dtype=torch.int64))
            assert int(getattr(acc, "moments", acc).counts.sum()) == rows + N


def test_moments_are_kept_as_passes_read_them():
    m = ssk.class_moments(Z, LABELS, C)
    state = m.state_dict()
    mean = state["mean"].T.contiguous().T
    again = ssk.ClassMoments(state["counts"], mean, torch._neg_view(-state["m2"]), m.dtype)
    assert_same(ssk.cdnv(again), ssk.cdnv(m))
    upper = torch.zeros(D, 2 * D, dtype=torch.float64)[:, ::2]
    scatter = ssk.PooledScatter(ssk.ClassMoments.empty(C, D), upper).update(Z, LABELS)
    assert_same(scatter.matrix, fed("PooledScatter", made("PooledScatter")).matrix)
    with pytest.raises(
        ValueError, match=r"counts: expected torch.int64 \[4\], got torch.int32 \[4\]"
    ):
        ssk.ClassMoments(state["counts"].int(), mean, state["m2"], m.dtype)
    with pytest.raises(ValueError, match=r"upper: expected torch.float64 \[6, 6\]"):
        ssk.PooledScatter(m, torch.zeros(D, D))


def test_state_without_values_is_refused():
    with torch.device("meta"), pytest.raises(TypeError, match="holds values, got one on meta"):
        ssk.ClassMoments.empty(C, D)
