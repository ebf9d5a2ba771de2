import numpy as np
import pytest
import torch

from sslkernels.losses import (
    VICRegLoss,
    covariance_loss,
    invariance_loss,
    variance_loss,
    vicreg_loss,
)

Z = torch.zeros(4, 3)
BAD_VIEWS = [
    (np.zeros((4, 3)), TypeError, "expected a torch tensor, got ndarray"),
    (torch.zeros(4, 3, dtype=torch.int64), TypeError, "expected float16, .* got int64"),
    (torch.zeros(4, 3, dtype=torch.complex64), TypeError, "expected float16, .* got complex64"),
    (torch.zeros(4), ValueError, r"expected shape \[N, D\] or \[N, ..., D\], got \[4\]"),
    (torch.zeros(()), ValueError, r"expected shape \[N, D\] or \[N, ..., D\], got \[\]"),
    (torch.zeros(4, 0), ValueError, r"expected no dimension of size 0, got shape \[4, 0\]"),
    (torch.zeros(4, 0, 3), ValueError, r"expected no dimension of size 0, got shape \[4, 0, 3\]"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD_VIEWS, ids=lambda v: str(v)[:20])
def test_bad_view(bad, error, message):
    for loss in (variance_loss, covariance_loss):
        with pytest.raises(error, match="z: " + message):
            loss(bad)
    for loss in (vicreg_loss, invariance_loss, VICRegLoss().forward_components):
        with pytest.raises(error, match="x: " + message):
            loss(bad, Z)


BAD_SECOND = [
    (np.zeros((4, 3)), TypeError, "expected a torch tensor, got ndarray"),
    (torch.zeros(4, 3).double(), TypeError, "expected x's dtype float32, got float64"),
    (torch.zeros(4, 2), ValueError, r"expected x's shape \[4, 3\], got \[4, 2\]"),
    (torch.zeros(1, 3), ValueError, r"expected x's shape \[4, 3\], got \[1, 3\]"),
    (torch.zeros(4, 3, device="meta"), ValueError, "expected x's device cpu, got meta"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD_SECOND, ids=lambda v: str(v)[:20])
def test_bad_second_view(bad, error, message):
    for loss in (vicreg_loss, invariance_loss, VICRegLoss()):
        with pytest.raises(error, match="y: " + message):
            loss(Z, bad)


def test_too_few_rows():
    one = torch.zeros(1, 3)
    for loss in (variance_loss, covariance_loss):
        with pytest.raises(ValueError, match=r"z: needs at least 2 rows, got shape \[1, 3\]"):
            loss(one)
    with pytest.raises(ValueError, match=r"x: needs at least 2 rows, got shape \[1, 3\]"):
        vicreg_loss(one, one)
    with pytest.raises(ValueError, match=r"x: needs at least one row, got shape \[0, 3\]"):
        invariance_loss(one[:0], one[:0])
    assert invariance_loss(one, one + 1) == 1
