import numpy as np
import pytest
import torch
from hypothesis import given, settings

import sslkernels as ssk
from sslkernels import reference
from tests.inputs import labelled, labelled_inputs


def reference_of(m: ssk.ClassMoments) -> reference.ClassMoments:
    return reference.ClassMoments(m.counts.numpy(), m.centers().numpy(), m.m2.numpy())


@settings(max_examples=50, deadline=None)
@given(data=labelled_inputs())
def test_equals_reference(data):
    m = ssk.class_moments(data.z, data.labels, data.num_classes)
    for convention in ("galanti", "sum"):
        for reduction in ("mean", "none"):
            got = ssk.cdnv(m, reduction=reduction, convention=convention)
            want = reference.cdnv(reference_of(m), reduction=reduction, convention=convention)
            assert got.dtype == torch.float64
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-9)


def test_from_the_data_to_the_number():
    data = labelled(500, 16, 7, offset=1e5)
    got = ssk.cdnv(ssk.class_moments(data.z, data.labels, 7))
    want = reference.cdnv(reference.class_moments(data.exact(), data.labels.numpy(), 7))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_means_that_nearly_coincide_keep_their_digits():
    # Two far groups of classes; means of a group differ by 1e-7 of the distance to the other.
    g = torch.Generator().manual_seed(0)
    base = torch.randn(2, 32, generator=g, dtype=torch.float64)
    means = base.repeat_interleave(20, 0) + 1e-7 * torch.randn(
        40, 32, generator=g, dtype=torch.float64
    )
    m = ssk.ClassMoments.empty(40, 32, dtype=torch.float64).load_state_dict(
        {
            "counts": torch.full((40,), 5),
            "mean": means,
            "m2": torch.rand(40, generator=g, dtype=torch.float64),
        }
    )
    want = reference.cdnv(reference_of(m), reduction="none")
    np.testing.assert_allclose(ssk.cdnv(m, reduction="none").numpy(), want, rtol=1e-7)


def test_identical_means():
    z = torch.tensor([[0.0], [2.0], [1.0], [1.0]])
    m = ssk.class_moments(z, torch.tensor([0, 0, 1, 1]), 2)
    assert ssk.cdnv(m) == torch.inf
    still = ssk.class_moments(torch.ones(4, 1), torch.tensor([0, 0, 1, 1]), 2)
    assert ssk.cdnv(still).isnan()


@pytest.mark.parametrize("classes", [1, 3])
def test_fewer_than_two_classes(classes):
    m = ssk.class_moments(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), classes)
    assert ssk.cdnv(m).isnan()
    assert ssk.cdnv(m, reduction="none").shape == (classes, classes)
    assert ssk.cdnv(m, reduction="none").isnan().all()


def test_bad_arguments():
    m = ssk.ClassMoments.empty(2, 2)
    with pytest.raises(TypeError, match="m: expected ClassMoments, got Tensor"):
        ssk.cdnv(torch.ones(2, 2))
    with pytest.raises(ValueError, match="reduction: expected one of 'mean', 'none', got 'sum'"):
        ssk.cdnv(m, reduction="sum")
    with pytest.raises(ValueError, match="convention: expected one of"):
        ssk.cdnv(m, convention="half")


def test_a_class_of_nan_reaches_its_own_pairs_only():
    data = labelled(60, 4, 4)
    z = data.z.clone()
    z[int((data.labels == 2).nonzero()[0])] = torch.nan
    got = ssk.cdnv(ssk.class_moments(z, data.labels, 4), reduction="none")
    want = ssk.cdnv(ssk.class_moments(data.z, data.labels, 4), reduction="none")
    want[2] = want[:, 2] = torch.nan
    torch.testing.assert_close(got, want, equal_nan=True)
    assert ssk.cdnv(ssk.class_moments(z, data.labels, 4)).isnan()
