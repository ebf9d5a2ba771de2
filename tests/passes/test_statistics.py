"""The passes of statistics as torch sees them: schema, shapes, and the way past the dispatcher."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from sslkernels.passes.class_moments import class_moments_update
from sslkernels.passes.class_projections import class_projections
from sslkernels.passes.mean_pairs import cdnv_sum, cosine_gap_sum
from sslkernels.passes.nearest_center import nearest_center
from sslkernels.passes.scatter import scatter_update
from sslkernels.passes.selection import use_backend
from sslkernels.passes.unit_moments import unit_moments


def states(sizes, d):
    tensors = []
    for c in sizes:
        tensors += [
            torch.zeros(c, dtype=torch.int64),
            *(torch.zeros(*shape, dtype=torch.float64) for shape in ((c, d), (c,))),
        ]
    return tensors


def calls(n=7, d=5, c=3, dtype=torch.float32):
    """Arguments for every pass, made anew: some are changed in place."""
    made = torch.Generator().manual_seed(0)
    z = torch.randn(n, d, generator=made).to(dtype)
    centers = torch.randn(c, d, generator=made, dtype=torch.float64)
    classes = torch.arange(n) % (c + 1) - 1
    counts = torch.full((c,), 3)
    m2 = torch.ones(c, dtype=torch.float64)
    return {
        class_moments_update: (z, classes.expand(2, n).contiguous(), states([c, c], d), -1),
        class_projections: (z, classes, centers, counts, True),
        cdnv_sum: (centers, m2, counts),
        cosine_gap_sum: (centers, counts),
        nearest_center: (z, centers, True),
        scatter_update: (z, classes, centers, torch.zeros(d, d, dtype=torch.float64)),
        unit_moments: (z,),
    }


PASSES = pytest.mark.parametrize("statistic", list(calls()), ids=lambda s: s.name().split("::")[1])


def flat(results, args):
    """Everything that a call has made or changed."""
    results = results if isinstance(results, tuple) else (results,)
    changed = (t for arg in args for t in (arg if isinstance(arg, list) else [arg]))
    return [t for t in (*results, *changed) if isinstance(t, torch.Tensor)]


@PASSES
@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_opcheck(statistic, backend):
    with use_backend(backend):
        opcheck(statistic.op, calls()[statistic])


@PASSES
@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(0, 9),
    d=st.integers(1, 9),
    c=st.integers(1, 9),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_shapes_for_tracing(statistic, n, d, c, dtype):
    opcheck(statistic.op, calls(n, d, c, dtype)[statistic], test_utils="test_faketensor")


class Seen(TorchDispatchMode):
    """Names every operator that is dispatched."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names.append(op.name())
        return op(*args, **(kwargs or {}))


@PASSES
def test_past_the_dispatcher_and_through_it(statistic, monkeypatch):
    args = calls()[statistic]
    want = flat(statistic(*args), args)
    again = calls()[statistic]
    with Seen() as seen:
        got = flat(statistic(*again), again)
    assert statistic.name() in seen.names
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    monkeypatch.setattr(statistic, "op", lambda *_: pytest.fail("dispatched"))
    statistic(*calls()[statistic])


@PASSES
def test_no_derivatives(statistic):
    first, *others = calls()[statistic]
    with pytest.raises(NotImplementedError, match=rf"{statistic.name()} is not differentiable"):
        statistic(first.requires_grad_(), *others)
    with torch.no_grad():
        statistic(first, *others)


def test_compiles_with_states_changed_in_place():
    args, again = (calls()[class_moments_update] for _ in range(2))
    step = torch.compile(
        lambda *a: class_moments_update(*a).sum(), backend="aot_eager", fullgraph=True
    )
    step(*args)
    class_moments_update(*again)
    for one, other in zip(args[2], again[2], strict=True):
        assert torch.equal(one, other)
