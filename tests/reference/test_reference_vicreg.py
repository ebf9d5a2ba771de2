"""The reference against the published formula differentiated by torch, in float64."""

import numpy as np
import pytest
import torch

from sslkernels.reference import vicreg as reference
from tests.losses.vicreg_cases import eager_terms, make_view

SHAPES = [(2, 1), (5, 9), (9, 5), (6, 3, 4), (6, 2, 2, 7)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_terms_and_gradients(shape):
    x, y = (
        make_view(shape, seed, dtype=torch.float64, spread=0.7).requires_grad_() for seed in (0, 1)
    )
    settings = {"sim_coeff": 3.0, "std_coeff": 2.0, "cov_coeff": 0.5, "gamma": 0.9, "eps": 1e-3}
    terms = eager_terms(x, y, 0.9, 1e-3)
    loss = 3 * terms[0] + 2 * terms[1] + 0.5 * terms[2]
    arrays = x.detach().numpy(), y.detach().numpy()
    got = reference.vicreg_terms(*arrays, **settings)
    assert reference.vicreg_loss(*arrays, **settings) == got.loss
    np.testing.assert_allclose(got, [float(t.detach()) for t in (loss, *terms)], rtol=1e-12)
    want = torch.autograd.grad(loss, (x, y))
    for a, b in zip(reference.vicreg_grad(*arrays, **settings), want, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-10, atol=1e-14)


def test_by_hand():
    z = np.array([[0.0, 0.0], [2.0, 2.0]])  # every covariance is 2
    assert reference.covariance_loss(z) == 4.0
    assert reference.variance_loss(z, gamma=2.0, eps=0.25) == 0.5
    assert reference.invariance_loss(z, z + 3) == 9.0
