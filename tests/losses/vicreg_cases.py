"""Views built to break the VICReg kernels, the eager formula, and one comparison of everything."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from sslkernels.losses import VICRegLoss
from sslkernels.numerics.views import result_dtype
from sslkernels.reference import vicreg as reference
from tests.compare import assert_as_good, distance
from tests.inputs import DTYPES, LAYOUTS, lay_out

Views = tuple[torch.Tensor, torch.Tensor]


def make_view(
    shape: tuple[int, ...],
    seed: int,
    *,
    dtype: torch.dtype = torch.float32,
    layout: str = "contiguous",
    offset: float = 0.0,
    spread: float = 1.0,
    constant: float = 0.0,
) -> torch.Tensor:
    """Columns of unequal spread around ``offset``; a share ``constant`` of them does not vary."""
    g = torch.Generator().manual_seed(seed)
    d = shape[-1]
    scale = spread * torch.exp(torch.randn(d, generator=g, dtype=torch.float64))
    scale[torch.rand(d, generator=g) < constant] = 0
    z = (offset + scale * torch.randn(shape, generator=g, dtype=torch.float64)).to(dtype)
    if layout == "expanded":
        return z[:, ..., :1].expand(shape) if seed % 2 else z[:1].expand(shape)
    return (
        lay_out(z.reshape(-1, d), layout).unflatten(0, shape[:-1])
        if z.ndim > 2
        else lay_out(z, layout)
    )


@st.composite
def views(draw: st.DrawFn) -> Views:
    n, d = draw(st.integers(2, 70)), draw(st.integers(1, 70))
    middle = draw(st.sampled_from([(), (), (3,), (2, 2)]))
    dtype = draw(st.sampled_from(DTYPES))
    half = dtype in (torch.float16, torch.bfloat16)
    options = {
        "dtype": dtype,
        "offset": draw(st.sampled_from([0.0, 10.0] if half else [0.0, 1e4, 1e6])),
        "spread": draw(st.sampled_from([0.01, 1.0])),
        "constant": draw(st.sampled_from([0.0, 0.0, 0.5])),
    }
    seed = draw(st.integers(0, 2**31))
    x, y = (
        make_view((n, *middle, d), seed + k, layout=draw(st.sampled_from(layouts)), **options)
        for k, layouts in enumerate(((*LAYOUTS, "expanded"), (*LAYOUTS, "expanded")))
    )
    return x, y


def eager_terms(x: torch.Tensor, y: torch.Tensor, gamma: float, eps: float) -> list[torch.Tensor]:
    """Invariance, variance and covariance by the published formula, in the result dtype."""
    dtype = result_dtype(x.dtype)
    x, y = x.to(dtype), y.to(dtype)
    invariance = F.mse_loss(x, y)
    variance = covariance = torch.zeros((), dtype=dtype)
    problems = [p for z in (x, y) for p in z.reshape(len(z), -1, z.shape[-1]).unbind(1)]
    for z in problems:
        n, d = z.shape
        z = z - z.mean(0)
        variance = variance + F.relu(gamma - (z.var(0) + eps).sqrt()).mean() / len(problems)
        c = z.T @ z / (n - 1)
        off_diagonal = c - torch.diag(c.diagonal())
        covariance = covariance + 2 * off_diagonal.square().sum() / d / len(problems)
    return [invariance, variance, covariance]


def gradients(loss: torch.Tensor, leaves: Views) -> list[torch.Tensor]:
    """By each view as the kernel gets it, strides included."""
    return list(torch.autograd.grad(loss, leaves))


def float64_bounds(
    arrays: list[np.ndarray], weights: list[float], gamma: float, eps: float
) -> tuple[list[float], list[float]]:
    """What float64 arithmetic in any order may lose of the three terms, and of each view's
    gradient for ``weights`` of the terms.

    By columns of a problem [N, D]: centered numbers are at most m_j and have a deviation of a_j. A
    sum of K numbers is off by at most K u times the sum of their magnitudes, u = 2^-53, so the mean
    moves all centered numbers by up to N u max |z_j|, and each sum of products of two columns,
    over N or D numbers, is that of columns off by r_j = N u max |z_j| + K u a_j, K = N + D + 32
    with what combines such sums. Differences of products follow: with Q = sum_j (a_j + r_j)^2
    and P = sum_j a_j^2, the sum of squared covariances is off by at most Q^2 - P^2.
    """
    u = 2.0**-53
    views = [np.moveaxis(z.reshape(len(z), -1, z.shape[-1]), 1, 0) for z in arrays]
    p, n, d = views[0].shape
    k = (n + d + 32) * u
    difference = views[0] - views[1]
    terms = [k * (difference**2).mean(), 0.0, 0.0]
    pulled = k * 2 * abs(weights[0]) * np.abs(difference).max() / difference.size
    gradients = []
    for view in views:
        worst = 0.0
        for z in view:
            moved = n * u * np.abs(z).max(0)
            m, a = np.abs(z - z.mean(0)).max(0), z.std(0, ddof=1)
            r, e = moved + k * a, moved + k * m
            deviation = np.sqrt(a**2 + eps)
            more = (2 * a * r + r**2).sum()
            terms[1] += (r.mean() + k * gamma) / (2 * p)
            terms[2] += (2 * (a**2).sum() * more + more**2) / (d * p)
            of_covariance = ((m + e) * (a + r)).sum() * (a + r) - (m * a).sum() * a
            of_variance = (e + m * (r / deviation + k)) / deviation / 2
            worst = max(
                worst,
                4 * abs(weights[2]) * (of_covariance + 2 * k * (m * a).sum() * a).max()
                + abs(weights[1]) * of_variance.max(),
            )
        gradients.append(pulled + worst / (p * d * (n - 1)))
    return terms, gradients


def check(x: torch.Tensor, y: torch.Tensor, *, times: float = 16.0, gamma: float = 1.0) -> None:
    """All four terms, and the gradient for random upstream gradients, against float64.

    Of float64 views the reference is no more precise: it and the result may each be off by
    :func:`float64_bounds`.
    """
    settings = {"sim_coeff": 3.0, "std_coeff": 2.0, "cov_coeff": 0.5, "gamma": gamma, "eps": 1e-4}
    weights = torch.randn(4, generator=torch.Generator().manual_seed(x.shape[0])).tolist()
    combined = [weights[0] * c + w for c, w in zip((3.0, 2.0, 0.5), weights[1:], strict=True)]
    x, y = (z.detach().requires_grad_() for z in (x, y))
    got = VICRegLoss(**settings).forward_components(x, y)
    arrays = [z.detach().double().numpy() for z in (x, y)]
    exact = reference.vicreg_terms(*arrays, **settings)
    ours = gradients(sum(w * t for w, t in zip(weights, got, strict=True)), (x, y))
    settings |= dict(zip(("sim_coeff", "std_coeff", "cov_coeff"), combined, strict=True))
    want = reference.vicreg_grad(*arrays, **settings)
    assert all(term.dtype == result_dtype(x.dtype) for term in got)
    assert all(g.dtype == x.dtype for g in ours)
    if x.dtype == torch.float64:
        bounds, gradient_bounds = float64_bounds(arrays, combined, gamma, 1e-4)
        results = [*zip(got[1:], exact[1:], bounds, strict=True)]
        results += zip(ours, want, gradient_bounds, strict=True)
        for value, truth, bound in results:
            error = distance(value, truth)
            assert error <= 2 * bound, f"error {error:.3g}, allowed {2 * bound:.3g}"
        return

    # The covariance term is the squared Frobenius norm less the squared variances when N < D.
    eager = eager_terms(x, y, gamma, 1e-4)
    problems = [p for z in arrays for p in np.moveaxis(z.reshape(len(z), -1, z.shape[-1]), 1, 0)]
    variances = [p.var(0, ddof=1) for p in problems]
    squares = sum((v**2).sum() for v in variances) * 2 / len(problems) / x.shape[-1]
    for value, rival, truth, scale in zip(
        got[1:], eager, exact[1:], (0.0, gamma, squares), strict=True
    ):
        assert_as_good(value, rival, truth, times=times, scale=scale)
    theirs = gradients(sum(w * t for w, t in zip(combined, eager, strict=True)), (x, y))
    pull = 4 * abs(combined[2]) / x[0].numel() / (len(x) - 1)
    scale = pull * max(
        np.abs((p - p.mean(0)) * v).max() for p, v in zip(problems, variances, strict=True)
    )
    for g, e, w in zip(ours, theirs, want, strict=True):
        assert_as_good(g, e, w, times=times, scale=scale)
