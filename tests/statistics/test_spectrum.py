import numpy as np
import pytest
import torch
from hypothesis import given, settings

import sslkernels as ssk
from sslkernels.reference.spectrum import alpha_req as reference_alpha_req
from sslkernels.reference.spectrum import rankme as reference_rankme
from sslkernels.reference.spectrum import spectrum as reference_spectrum
from tests.inputs import labelled, labelled_inputs

NOISE = 1e-14  # of the largest eigenvalue, as the module states


def spread_noise(data, got: np.ndarray) -> float:
    """What the eigenvalues may be off by: rounding, and class means from float32 differences."""
    eps = np.finfo(np.float64 if data.z.dtype == torch.float64 else np.float32).eps
    z = data.exact()
    spread = np.ptp(z, axis=0).max(initial=0.0) if len(z) else 0.0
    offset = 4e-16 * np.abs(z).max(initial=0.0)
    # A mean that is off by eps times the spread moves the scatter between means by twice that.
    return NOISE * got.max(initial=0.0) + z.shape[1] * spread * (2 * eps * spread + offset)


def assert_spectrum(got: ssk.Spectrum, want, data) -> None:
    values = got.eigenvalues.numpy()
    noise = spread_noise(data, want.eigenvalues)
    assert (values >= 0).all() or np.isnan(values).all()
    np.testing.assert_allclose(values, want.eigenvalues, rtol=1e-9, atol=noise)
    if len(values) and values[0] > 1e3 * noise:
        rank, roots = len(values), np.sqrt(noise / want.eigenvalues[0])
        for name in ("participation_ratio", "stable_rank"):
            slack = 1e-9 + rank * noise / values[0] * 4
            np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=slack)
        slack = 1e-9 + 16 * rank * roots
        np.testing.assert_allclose(got.effective_rank, want.effective_rank, rtol=slack)
    # Of the rows as they are: only rounding of the squared entries.
    if want.rankme == want.rankme:
        np.testing.assert_allclose(got.rankme, want.rankme, rtol=2e-6 * max(len(values), 1))


@settings(max_examples=60, deadline=None)
@given(data=labelled_inputs())
def test_equals_reference(data):
    used = data.labels >= 0
    rows = data.exact()[used.numpy()]
    got = ssk.spectrum(data.z, data.labels, data.num_classes)
    labels = data.labels.numpy()
    assert_spectrum(got, reference_spectrum(data.exact(), labels, data.num_classes), data)
    assert_spectrum(ssk.spectrum(data.z[used]), reference_spectrum(rows), data)


@settings(max_examples=40, deadline=None)
@given(data=labelled_inputs())
def test_both_sides_and_batches_agree(data):
    within = ssk.PooledScatter.empty(data.num_classes, data.z.shape[1])
    for start in range(0, len(data.z), 13):
        within.update(data.z[start : start + 13], data.labels[start : start + 13])
    labels = data.labels.numpy()
    want = reference_spectrum(data.exact(), labels, data.num_classes)
    assert_spectrum(ssk.spectrum(within), want, data)
    want = reference_spectrum(data.exact()[labels >= 0])
    assert_spectrum(ssk.spectrum(within.total()), want, data)


@pytest.mark.parametrize("shape", [(40, 120), (120, 40)])
def test_rankme_holds_its_stated_error(shape):
    # Singular values from 1 down to 1e-12: what the squares cannot hold is noise, within bounds.
    g = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(
        torch.randn(*shape, generator=g, dtype=torch.float64), full_matrices=False
    )
    s = torch.logspace(0, -12, 40, dtype=torch.float64)
    got = ssk.spectrum(u * s @ v)
    exact = reference_rankme(s)
    assert abs(float(got.rankme) / exact - 1) < 2e-6 * 40
    np.testing.assert_allclose(float(ssk.rankme(s)), exact, rtol=1e-14)
    near = torch.logspace(0, -6, 40, dtype=torch.float64)
    got = ssk.spectrum(u * near @ v)
    np.testing.assert_allclose(float(got.rankme), reference_rankme(near), rtol=1e-8)


def test_known_values():
    flat = ssk.spectrum(torch.cat([torch.eye(8), -torch.eye(8)]).double())
    torch.testing.assert_close(flat.eigenvalues, torch.full((8,), 1 / 8, dtype=torch.float64))
    for name in ("rankme", "effective_rank", "participation_ratio", "stable_rank"):
        assert float(getattr(flat, name)) == pytest.approx(8, rel=1e-4)
    assert float(flat.alpha) == pytest.approx(0, abs=1e-12)
    far = ssk.spectrum(torch.cat([torch.eye(8), -torch.eye(8)]).double() + 1e3)
    assert float(far.stable_rank) == pytest.approx(8) and float(far.rankme) < 1.1


def test_alpha_takes_the_ranks_asked_for():
    values = torch.arange(1, 301, dtype=torch.float64) ** -1.25
    values[:3] = 7  # before the fit
    values[100:] = values[100] / 1e3  # after it
    assert float(ssk.alpha_req(values)) == pytest.approx(1.25)
    assert float(ssk.alpha_req(values, alpha_ranks=(1, 300))) != pytest.approx(1.25, abs=0.1)
    noisy = values * torch.linspace(0.5, 1.5, 300)
    for ranks in ((4, 100), (2, 50), (10, 400)):
        want = reference_alpha_req(noisy, alpha_ranks=ranks)
        assert float(ssk.alpha_req(noisy, alpha_ranks=ranks)) == pytest.approx(want)
    assert ssk.alpha_req(values[:4]).isnan()
    z = labelled(500, 30, 5).z
    got = ssk.spectrum(z, alpha_ranks=(2, 9)).alpha
    assert got == ssk.alpha_req(ssk.spectrum(z).eigenvalues, alpha_ranks=(2, 9))


def test_no_rows_one_row_and_rows_that_are_not_finite():
    none = ssk.spectrum(torch.empty(0, 3))
    assert len(none.eigenvalues) == 0 and all(v.isnan() for v in none[1:])
    one = ssk.spectrum(torch.tensor([[3.0, 4.0]]))
    assert one.eigenvalues.tolist() == [0] and one.stable_rank.isnan()
    assert float(one.rankme) == pytest.approx(1, rel=1e-5)
    assert ssk.spectrum(torch.tensor([[torch.nan, 1.0], [0, 0], [1, 2]])).eigenvalues.isnan().all()
    assert ssk.spectrum(torch.full((2, 3), torch.inf)).rankme.isnan()


def test_numpy_in_numpy_out_and_repetition():
    z = labelled(60, 8, 4, offset=1e3).z.numpy()
    got, again = ssk.spectrum(z), ssk.spectrum(z)
    assert isinstance(got.eigenvalues, np.ndarray) and isinstance(got.rankme, np.float64)
    for a, b in zip(got, again, strict=True):
        np.testing.assert_array_equal(a, b)
    want = np.linalg.eigvalsh(np.cov(z.T.astype(np.float64), bias=True))[::-1]
    np.testing.assert_allclose(got.eigenvalues, want, rtol=1e-7)


def test_bad_arguments():
    z = torch.zeros(4, 3)
    s = ssk.PooledScatter.empty(2, 3)
    with pytest.raises(ValueError, match="labels, num_classes: go together"):
        ssk.spectrum(z, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels, num_classes: the scatter holds its own"):
        ssk.spectrum(s, num_classes=2)
    with pytest.raises(ValueError, match="alpha_ranks: expected a first rank below the last"):
        ssk.spectrum(z, alpha_ranks=(5, 5))
    with pytest.raises(ValueError, match="alpha_ranks: expected a positive int, got 0"):
        ssk.spectrum(z, alpha_ranks=(0, 5))
    with pytest.raises(ValueError, match="labels: row 1 holds 3"):
        ssk.spectrum(z, torch.tensor([0, 3, 0, 0]), 2)
    with pytest.raises(ValueError, match=r"z: expected shape \[N, D\]"):
        ssk.spectrum(z[0])
