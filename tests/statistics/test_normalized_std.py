import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sslkernels as ssk
from sslkernels.reference.normalized_std import normalized_std as reference_normalized_std
from tests.inputs import labelled, labelled_inputs


@settings(max_examples=60, deadline=None)
@given(data=labelled_inputs(), cut=st.integers(0, 70))
def test_equals_reference_whole_and_merged(data, cut):
    want = reference_normalized_std(data.exact())
    # Around an offset the deviations are small beside entries of size 1, good to 1e-16 themselves.
    close = {"rtol": 1e-9, "atol": 1e-15}
    np.testing.assert_allclose(float(ssk.normalized_std(data.z)), want, **close)
    left, right = (
        ssk.NormalizedMoments.empty(data.z.shape[1]).update(part)
        for part in (data.z[:cut], data.z[cut:])
    )
    merged = left.merge(right)
    assert int(merged.count) == len(data.z)
    np.testing.assert_allclose(float(merged.std), want, **close)


def test_healthy_and_collapsed():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(5000, 64, generator=g)
    assert float(ssk.normalized_std(z)) == pytest.approx(64**-0.5, rel=1e-2)
    assert float(ssk.normalized_std(torch.ones(9, 1) * z[:1])) == pytest.approx(0, abs=1e-15)
    assert isinstance(ssk.normalized_std(z.numpy()), np.float64)


def test_rows_of_zeros_and_of_huge_and_tiny_numbers():
    z = torch.tensor([[0, 0], [1e300, 0], [-1e-300, 0], [0, 1e200]], dtype=torch.float64)
    unit = np.array([[0, 0], [1, 0], [-1, 0], [0, 1]])
    assert float(ssk.normalized_std(z)) == pytest.approx(unit.std(0).mean())
    assert ssk.normalized_std(torch.tensor([[torch.inf, 1.0], [1.0, 1.0]])).isnan()
    assert ssk.normalized_std(torch.empty(0, 2)).isnan()


def test_state_round_trip(tmp_path):
    z = labelled(80, 6, 5).z
    m = ssk.NormalizedMoments.empty(6).update(z[:50])
    torch.save(m.state_dict(), tmp_path / "m.pt")
    again = ssk.NormalizedMoments.empty(6).load_state_dict(torch.load(tmp_path / "m.pt"))
    assert again.update(z[50:]).std == m.update(z[50:]).std


def test_bad_arguments():
    m = ssk.NormalizedMoments.empty(3)
    with pytest.raises(ValueError, match="z: expected 3 columns"):
        m.update(torch.zeros(2, 4))
    with pytest.raises(TypeError, match="other: expected NormalizedMoments, got int"):
        m.merge(1)
    with pytest.raises(ValueError, match=r"other: mean: expected torch.float64 \[3\]"):
        m.merge(ssk.NormalizedMoments.empty(4))
    with pytest.raises(ValueError, match="dim: expected a positive int"):
        ssk.NormalizedMoments.empty(0)
    with pytest.raises(TypeError, match="z: expected float16"):
        ssk.normalized_std(torch.zeros(2, 3).int())
