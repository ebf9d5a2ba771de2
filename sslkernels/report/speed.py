"""A quick comparison of speed and error, side by side in one process.

Ours against what users run today: the VICReg formula of its authors in eager torch, and
scikit-learn's NearestCentroid. Errors are measured against the float64 references. The full tables,
with more rivals and with the machine's own limits, are those of ``make bench``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

import sslkernels as ssk
from sslkernels import reference
from sslkernels.reference.vicreg import vicreg_grad

_Result = TypeVar("_Result")

CHECKED_ROWS = 500  # rows whose nearest center is compared with the float64 reference


@dataclass(frozen=True)
class Sizes:
    """What is timed."""

    vicreg: Sequence[tuple[int, int]] = ((256, 2048), (256, 8192))
    rows: int = 50_000
    dim: int = 512
    classes: int = 1000


@dataclass(frozen=True)
class Comparison:
    """One piece of work done twice."""

    work: str
    size: str
    rival: str
    seconds: float  # median
    rival_seconds: float
    error: float
    rival_error: float
    error_of: str

    @property
    def speedup(self) -> float:
        return self.rival_seconds / self.seconds

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "speedup": self.speedup}


def compare(sizes: Sizes, device: torch.device, budget: float = 1.0) -> Iterator[Comparison]:
    """Time and check each piece of work; ``budget`` seconds of repetitions per contender."""
    for n, d in sizes.vicreg:
        yield _vicreg(n, d, device, budget)
    yield from _nearest_class_center(sizes.rows, sizes.dim, sizes.classes, device, budget)


def official_vicreg(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """VICReg as published (arXiv 2105.04906), off-diagonals by flatten and view."""
    n, d = x.shape
    invariance = F.mse_loss(x, y)
    x, y = x - x.mean(0), y - y.mean(0)
    variance = sum(F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in (x, y)) / 2
    covariance = sum(_off_diagonal(z.T @ z / (n - 1)).pow(2).sum() for z in (x, y)) / d
    return 25.0 * invariance + 25.0 * variance + covariance


def _off_diagonal(square: torch.Tensor) -> torch.Tensor:
    size = len(square)
    return square.flatten()[:-1].view(size - 1, size + 1)[:, 1:].flatten()


def _timed(
    job: Callable[[], _Result], device: torch.device, budget: float
) -> tuple[float, _Result]:
    """The median time of 2 to 25 calls, as many as fit the budget, after one to warm up."""

    def once() -> tuple[float, _Result]:
        _wait(device)
        start = time.perf_counter()
        result = job()
        _wait(device)
        return time.perf_counter() - start, result

    once()
    times = [once()[0]]
    while True:
        seconds, result = once()
        times.append(seconds)
        if len(times) == 25 or sum(times) >= budget:
            return float(np.median(times)), result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _vicreg(n: int, d: int, device: torch.device, budget: float) -> Comparison:
    generator = torch.Generator("cpu").manual_seed(0)
    base = torch.randn(n, d, generator=generator, device="cpu")
    x, y = (base + 0.5 * torch.randn(n, d, generator=generator, device="cpu") for _ in range(2))
    exact = vicreg_grad(x.numpy(), y.numpy())
    x, y = x.to(device).requires_grad_(), y.to(device).requires_grad_()

    def gradients(loss: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(loss(x, y), (x, y))

    def error(grads: tuple[torch.Tensor, ...]) -> float:
        pairs = zip(grads, exact, strict=True)
        return max(_relative(grad.cpu().numpy(), truth) for grad, truth in pairs)

    seconds, ours = _timed(lambda: gradients(ssk.vicreg_loss), device, budget)
    rival_seconds, theirs = _timed(lambda: gradients(official_vicreg), device, budget)
    return Comparison(
        "VICReg step",
        f"{n} x {d}",
        "the official formula",
        seconds,
        rival_seconds,
        error(ours),
        error(theirs),
        "gradients, relative",
    )


def _nearest_class_center(
    n: int, d: int, classes: int, device: torch.device, budget: float
) -> Iterator[Comparison]:
    from sklearn.neighbors import NearestCentroid  # slow to import

    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, n)
    labels[:classes] = np.arange(classes)
    rows = generator.standard_normal((n, d), dtype=np.float32)
    rows += 0.1 * generator.standard_normal((classes, d), dtype=np.float32)[labels]
    truth = reference.class_moments(rows, labels, classes)
    assert isinstance(truth, reference.ClassMoments)
    z, targets = torch.from_numpy(rows).to(device), torch.from_numpy(labels).to(device)
    size = f"{n} x {d}, C = {classes}"

    seconds, moments = _timed(lambda: ssk.class_moments(z, targets, classes), device, budget)
    assert isinstance(moments, ssk.ClassMoments)
    rival_seconds, sklearn = _timed(lambda: NearestCentroid().fit(rows, labels), device, budget)
    yield Comparison(
        "Moments",
        size,
        "NearestCentroid.fit",
        seconds,
        rival_seconds,
        _relative(moments.centers().cpu().numpy(), truth.means),
        _relative(sklearn.centroids_, truth.means),
        "means, relative",
    )

    nearest = reference.ncc_predict(rows[:CHECKED_ROWS], truth)
    seconds, ours = _timed(lambda: ssk.ncc_predict(z, moments), device, budget)
    rival_seconds, theirs = _timed(lambda: sklearn.predict(rows), device, budget)
    yield Comparison(
        "NCC",
        size,
        "NearestCentroid.predict",
        seconds,
        rival_seconds,
        float((ours[:CHECKED_ROWS].cpu().numpy() != nearest).mean()),
        float((theirs[:CHECKED_ROWS] != nearest).mean()),
        "share of rows",
    )


def _relative(got: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(got - truth) / np.linalg.norm(truth))
