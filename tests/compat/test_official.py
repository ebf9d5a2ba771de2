"""Against the loss of the authors' VICReg code, written out from its definition."""

from argparse import Namespace

import pytest
import torch

from sslkernels.compat.official import VICReg
from tests.compat.compare import assert_same, each_input, each_shape, squared_variances, views


def authors_terms(x, y, batch_size):
    """Invariance; the mean over the views of the hinge; off-diagonal covariances over the nominal
    batch size less one, squared, over the width."""
    hinge, covariance = 0.0, 0.0
    for z in (x, y):
        z = z - z.mean(0)
        hinge = hinge + torch.relu(1 - torch.sqrt(z.var(0) + 0.0001)).mean() / 2
        c = (z.T @ z / (batch_size - 1)).fill_diagonal_(0)
        covariance = covariance + c.pow(2).sum() / z.shape[1]
    return torch.nn.functional.mse_loss(x, y), hinge, covariance


@each_shape
@each_input
@pytest.mark.parametrize("batch_size", [16, 64, 2048])
def test_loss(shape, dtype, offset, batch_size):
    x, y = views(shape, dtype, offset)
    coefficients = (3.0, 7.0, 0.5)

    def authors(x, y):
        terms = authors_terms(x, y, batch_size)
        return sum(c * t for c, t in zip(coefficients, terms, strict=True))

    ours = VICReg(batch_size, *coefficients)
    nominal = ((shape[0] - 1) / (batch_size - 1)) ** 2
    assert_same(ours, authors, x, y, offset=offset, scale=nominal * squared_variances(x, y))


@pytest.mark.parametrize("term", ["invariance", "variance", "covariance"])
def test_terms(term):
    x, y = views((20, 30), torch.float64)
    index = ("invariance", "variance", "covariance").index(term)
    assert_same(
        lambda x, y: getattr(VICReg(32).forward_components(x, y), term),
        lambda x, y: authors_terms(x, y, 32)[index],
        x,
        y,
        scale=squared_variances(x, y),
    )


def test_defaults_are_the_flags():
    flags = Namespace(batch_size=2048, sim_coeff=25.0, std_coeff=25.0, cov_coeff=1.0, wd=1e-6)
    assert str(VICReg()) == str(VICReg.from_args(flags))
    assert "batch_size=96, sim_coeff=1" in str(VICReg(96, 1))


def test_bad_input():
    with pytest.raises(ValueError, match="batch_size: expected at least 2, got 1"):
        VICReg(batch_size=1)
    with pytest.raises(ValueError, match=r"x: expected shape \[N, D\], got \[2, 3, 4\]"):
        VICReg()(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
