"""Data at the edges: collapsed, offset, rank-deficient, of one class, one column, one row."""

import numpy as np
import pytest
import torch

import sslkernels as ssk
from tests.evaluation.expected import expected, table

N, C, D = 240, 8, 12
RNG = np.random.default_rng(0)
Y = RNG.integers(0, C, N)
LABELS = {"fine": Y, "coarse": Y // 2, "chance": RNG.integers(0, 5, N)}
MEANS, NOISE = RNG.normal(size=(C, D))[Y], RNG.normal(size=(N, D))
Z = MEANS + NOISE


def check(z, labels, *, rel=1e-6, absolute=0.0, **options):
    """All but alpha, whose eigenvalues may be rounding, and uniformity, float32 products."""
    exact = z.double().numpy() if isinstance(z, torch.Tensor) else z
    want = expected(exact, labels, **options)
    found = table(ssk.evaluate(z, labels, chunk_rows=97, **options))
    assert found.keys() == want.keys()
    for key, value in want.items():
        if not key[2].endswith("alpha"):
            least = max(absolute, 2e-6 if key[2] == "uniformity" else 1e-12)
            least = 0.0 if key[2] in ("cdnv", "directional_cdnv", "nc1") else least
            assert found[key] == pytest.approx(value, rel=rel, abs=least, nan_ok=True), key


@pytest.mark.parametrize("spread", [1e-3, 1e-6, 1e-12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_collapsed_classes(spread, dtype):
    check(torch.from_numpy(MEANS + spread * NOISE).to(dtype), LABELS, rel=2e-5)


def test_classes_that_are_points():
    check(torch.from_numpy(MEANS).float(), LABELS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_offset(dtype):
    check(torch.from_numpy(Z + 1e4).to(dtype), LABELS, absolute=1e-6)


@pytest.mark.parametrize(
    "dtype, scale",
    [
        (torch.float16, 1.0),
        (torch.float16, 1e4),  # near the largest float16
        (torch.bfloat16, 1.0),
        (torch.bfloat16, 1e18),  # squares beyond float32
        (torch.float32, 1e25),
        (torch.float32, 1e-25),
        (torch.float64, 1e60),
    ],
)
@pytest.mark.parametrize("normalize", [False, True])
def test_number_formats_and_sizes(dtype, scale, normalize):
    check(torch.from_numpy(scale * Z).to(dtype), LABELS, normalize=normalize, rel=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 5, D - 1, D, D + 3])
def test_few_rows(rows):
    check(Z[:rows], {name: y[:rows] for name, y in LABELS.items()})


def test_one_column():
    check(Z[:, :1], LABELS)


@pytest.mark.parametrize(
    "labels",
    [
        Y * 0,
        np.where(Y == 3, 4, Y),  # an empty class
        Y * 9,  # mostly empty classes
        np.arange(N) % 99,  # twos and threes
        np.arange(N),  # every row its own class
        np.where(np.arange(N) == 5, 2, -100),  # one labelled row
        np.where(np.arange(N) % 3, Y, -100),
    ],
)
def test_odd_labelings(labels):
    check(Z, {"odd": labels})
    check(Z, {"odd": labels, "fine": Y})


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_rows_that_are_all_the_same(value):
    check(np.full((30, 4), value), {"y": np.arange(30) % 3}, absolute=1e-12)


def test_rows_of_zeros_have_no_direction():
    z = Z.copy()
    z[[3, 99]] = 0
    check(z, LABELS, normalize=True)


def test_a_negligible_class_beside_a_large_one():
    """Squared scatter of 1e-10 beside 1e10: the tight class keeps its own digits."""
    z = np.where((Y == 0)[:, None], 1e-5, 1e5) * Z
    m = ssk.evaluate(z, {"fine": Y})["fine"]
    np.testing.assert_allclose(m.variances[0], (z[Y == 0] - z[Y == 0].mean(0)).var(0).sum(), 1e-9)
