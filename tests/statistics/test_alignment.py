import importlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sslkernels as ssk
from sslkernels.reference.alignment import alignment as reference_alignment
from sslkernels.reference.alignment import uniformity as reference_uniformity
from tests.inputs import labelled, labelled_inputs


@settings(max_examples=60, deadline=None)
@given(data=labelled_inputs(), alpha=st.sampled_from([0.5, 1, 2.0, 4]))
def test_alignment_equals_reference(data, alpha):
    x, y = data.z, data.z.flip(0)
    got = ssk.alignment(x, y, alpha=alpha)
    want = reference_alignment(data.exact(), data.exact()[::-1], alpha=alpha)
    # Around an offset, views differ by little beside entries of size 1, good to 1e-16 themselves.
    np.testing.assert_allclose(float(got), want, rtol=1e-9, atol=(4e-15) ** alpha)


@settings(max_examples=60, deadline=None)
@given(data=labelled_inputs(), t=st.sampled_from([0.1, 2, 500.0]))
def test_uniformity_equals_reference(data, t):
    got = ssk.uniformity(data.z, t=t)
    want = reference_uniformity(data.exact(), t=t)
    # A product of unit rows loses at most sqrt(D) eps or so, and t multiplies it.
    eps = np.finfo(np.float64 if data.z.dtype == torch.float64 else np.float32).eps
    np.testing.assert_allclose(float(got), want, rtol=0, atol=16 * t * eps + 1e-12)


def test_tiles_do_not_change_the_result(monkeypatch):
    data = labelled(101, 16, 4, dtype=torch.float64)
    whole = ssk.uniformity(data.z)
    for size in (1, 10, 100):
        module = importlib.import_module("sslkernels.statistics.alignment")
        monkeypatch.setattr(module, "_TILE", size)
        torch.testing.assert_close(ssk.uniformity(data.z), whole)


def test_known_values():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 256, generator=g)
    # Of random directions in many dimensions, ||z - z'||^2 is 2 with variance 4 / D.
    assert float(ssk.uniformity(z)) == pytest.approx(-4 + 2 * 4 / 256, abs=1e-2)
    assert float(ssk.uniformity(z[:1].repeat(50, 1))) == pytest.approx(0, abs=1e-6)
    assert float(ssk.alignment(z, 3 * z)) == pytest.approx(0, abs=1e-13)
    assert float(ssk.alignment(z, -z)) == pytest.approx(4)
    assert float(ssk.uniformity(torch.eye(3), t=1e4)) == pytest.approx(-2e4)
    assert ssk.uniformity(z) == ssk.uniformity(z)


def test_zero_rows_few_rows_and_rows_that_are_not_finite():
    z = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert float(ssk.uniformity(z)) == pytest.approx(-2)
    assert float(ssk.alignment(z, torch.ones(2, 2) @ torch.diag(torch.tensor([3.0, 4.0])))) == 0.5
    assert ssk.uniformity(z[:1]).isnan() and ssk.uniformity(z[:0]).isnan()
    assert ssk.alignment(z[:0], z[:0]).isnan()
    for value in (torch.nan, torch.inf):
        z[0, 1] = value
        assert ssk.uniformity(z).isnan() and ssk.alignment(z, z).isnan()


def test_numpy_in_numpy_out():
    z = labelled(30, 4, 2).z.numpy()
    assert isinstance(ssk.uniformity(z), np.float64)
    assert isinstance(ssk.alignment(z, z[::-1]), np.float64)
    assert isinstance(ssk.uniformity(z[:1]), np.float64)


def test_bad_arguments():
    z = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"y: expected shape \[4, 3\] to match x, got \[3, 3\]"):
        ssk.alignment(z, z[:3])
    with pytest.raises(TypeError, match="y: expected float16"):
        ssk.alignment(z, z.long())
    with pytest.raises(ValueError, match=r"x: expected shape \[N, D\]"):
        ssk.alignment(z[0], z[0])
    with pytest.raises(ValueError, match="alpha: expected a positive number, got 0"):
        ssk.alignment(z, z, alpha=0)
    with pytest.raises(TypeError, match="t: expected a number, got str"):
        ssk.uniformity(z, t="2")
    with pytest.raises(ValueError, match="t: expected a positive number, got nan"):
        ssk.uniformity(z, t=float("nan"))
