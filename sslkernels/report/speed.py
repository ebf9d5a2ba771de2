"""What is compared and how it is timed: the core of ``sslkernels bench`` and of ``make bench``.

A :class:`Case` is a piece of work with several contenders, ours first, on the same data; the error
of every result against float64 stands beside its time. ``sslkernels bench`` times two rivals that
users run today, VICReg's published formula in eager torch and scikit-learn's NearestCentroid. The
full tables, with more rivals and the machine's own limits, are those of ``make bench``.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

import sslkernels as ssk
from sslkernels import reference

_Result = TypeVar("_Result")
Loss = Callable[..., torch.Tensor]

CHECKED_ROWS = 500  # rows whose nearest center is compared with the float64 reference

# Bound of a contender that computes nothing to compare, such as a plain read of the data.
NO_RESULT = math.inf

# Relative errors of value and gradients in fp32. Ours add at most some hundred terms at a time:
# sqrt(512) roundings of 6e-8, times the 4 of a product of products. The published formulas add
# D^2 terms in one go, and cancel.
BOUND, RIVALS_BOUND = 6e-6, 1e-3


@dataclass
class Case:
    """A workload with its data in memory.

    Attributes:
        contenders: name -> the job, ours first; each returns its result.
        error: the error of a result against float64, as the workload defines it.
        bounds: name -> the largest error that a speed may stand beside; beyond it a contender is
            shown as WRONG, without a speed.
        amount: floating-point operations or bytes that the job must do or read at least.
        unit: "FLOP" or "B".
    """

    contenders: dict[str, Callable[[], Any]]
    error: Callable[[Any], float]
    bounds: Mapping[str, float]
    amount: float
    unit: str


@dataclass(frozen=True)
class Workload:
    """A named job; ``contenders`` lists the names that ``build().contenders`` will hold."""

    name: str
    contenders: tuple[str, ...]
    build: Callable[[], Case]
    rounds: int = 5


def is_wrong(error: float, bound: float) -> bool:
    """Whether the error is out of bounds; NaN is, unless no result is expected."""
    return bound != NO_RESULT and not error <= bound


def timed(
    job: Callable[[], _Result], device: torch.device, budget: float = math.inf, most: int = 25
) -> tuple[list[float], _Result]:
    """The seconds of 2 to ``most`` calls, as many as fit the budget, after one to warm up; and the
    last result."""
    job()
    times: list[float] = []
    while True:
        _wait(device)
        start = time.perf_counter()
        result = job()
        _wait(device)
        times.append(time.perf_counter() - start)
        if len(times) > 1 and (len(times) >= most or sum(times) >= budget):
            return times, result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def relative(got: Any, truth: Any) -> float:
    """The length of the difference over that of the truth."""
    a, b = (torch.as_tensor(x).cpu().double() for x in (got, truth))
    return float((a - b).norm() / b.norm())


# ---- losses --------------------------------------------------------------------------------------


def step(loss: Loss, *views: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The loss and every view's gradient, as a training step needs them."""
    value = loss(*views)
    return (value.detach(), *torch.autograd.grad(value, views))


def two_views(n: int, d: int, device: torch.device | None = None) -> tuple[torch.Tensor, ...]:
    """Two correlated views of full rank, with features of unequal variance."""
    g = torch.Generator("cpu").manual_seed(0)
    base = torch.randn(n, d, generator=g, device="cpu")
    base *= torch.linspace(0.3, 1.5, d, device="cpu")
    views = [base + 0.3 * torch.randn(n, d, generator=g, device="cpu") for _ in range(2)]
    return tuple(view.to(device or "cpu").requires_grad_() for view in views)


def loss_case(losses: Mapping[str, Loss], views: tuple[torch.Tensor, ...], amount: float) -> Case:
    """Steps of several forms of one loss, ours first, on the same views; ``amount`` in FLOP."""
    ours = next(iter(losses.values()))

    @functools.cache
    def exact() -> tuple[torch.Tensor, ...]:
        with ssk.use_backend("torch"):
            return step(ours, *(z.detach().double().requires_grad_() for z in views))

    return Case(
        contenders={name: functools.partial(step, loss, *views) for name, loss in losses.items()},
        error=lambda result: max(map(relative, result, exact())),
        bounds={name: RIVALS_BOUND if k else BOUND for k, name in enumerate(losses)},
        amount=amount,
        unit="FLOP",
    )


def official_vicreg(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """VICReg as published (arXiv 2105.04906) and as its authors compute it, on one device."""
    n, d = x.shape
    invariance = F.mse_loss(x, y)
    x, y = x - x.mean(0), y - y.mean(0)
    std_x, std_y = torch.sqrt(x.var(0) + 1e-4), torch.sqrt(y.var(0) + 1e-4)
    variance = F.relu(1 - std_x).mean() / 2 + F.relu(1 - std_y).mean() / 2
    cov_x, cov_y = x.T @ x / (n - 1), y.T @ y / (n - 1)
    covariance = (_off_diagonal(cov_x).pow(2).sum() + _off_diagonal(cov_y).pow(2).sum()) / d
    return 25.0 * invariance + 25.0 * variance + covariance


def _off_diagonal(m: torch.Tensor) -> torch.Tensor:
    """Everything off the diagonal of a square matrix, by a view and without an index."""
    n = m.shape[0]
    return m.flatten()[:-1].view(n - 1, n + 1)[:, 1:].flatten()


# ---- the quick comparison ------------------------------------------------------------------------


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

    def comparison(
        work: str, size: str, rival: str, ours: Callable[[], Any], theirs: Callable[[], Any],
        error: Callable[[Any], float], error_of: str,
    ) -> Comparison:  # fmt: skip
        found = [timed(job, device, budget) for job in (ours, theirs)]
        a, b = (float(np.median(times)) for times, _ in found)
        ours_off, off = (error(result) for _, result in found)
        return Comparison(work, size, rival, a, b, ours_off, off, error_of)

    for n, d in sizes.vicreg:
        losses = {"ours": ssk.vicreg_loss, "theirs": official_vicreg}
        case = loss_case(losses, two_views(n, d, device), 0.0)
        ours, theirs = case.contenders.values()
        yield comparison(
            "VICReg step", f"{n} x {d}", "the official formula", ours, theirs,
            case.error, "loss and gradients, relative",
        )  # fmt: skip

    from sklearn.neighbors import NearestCentroid  # slow to import

    rows, labels = _classed(sizes)
    truth = reference.class_moments(rows, labels, sizes.classes)
    assert isinstance(truth, reference.ClassMoments)
    z, targets = torch.from_numpy(rows).to(device), torch.from_numpy(labels).to(device)
    size = f"{sizes.rows} x {sizes.dim}, C = {sizes.classes}"
    yield comparison(
        "Moments", size, "NearestCentroid.fit",
        lambda: ssk.class_moments(z, targets, sizes.classes),
        lambda: NearestCentroid().fit(rows, labels),
        lambda found: relative(
            found.centers() if isinstance(found, ssk.ClassMoments) else found.centroids_,
            truth.means,
        ),
        "means, relative",
    )  # fmt: skip
    moments, rival = ssk.class_moments(z, targets, sizes.classes), NearestCentroid()
    rival.fit(rows, labels)
    nearest = torch.from_numpy(reference.ncc_predict(rows[:CHECKED_ROWS], truth))
    yield comparison(
        "NCC", size, "NearestCentroid.predict",
        lambda: ssk.ncc_predict(z, moments), lambda: rival.predict(rows),
        lambda found: float(
            (torch.as_tensor(found[:CHECKED_ROWS]).cpu() != nearest).double().mean()
        ),
        "share of rows",
    )  # fmt: skip


def _classed(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Rows near the means of their classes, none of which is empty."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, sizes.classes, sizes.rows)
    labels[: sizes.classes] = np.arange(sizes.classes)
    rows = generator.standard_normal((sizes.rows, sizes.dim), dtype=np.float32)
    means = generator.standard_normal((sizes.classes, sizes.dim), dtype=np.float32)
    return rows + 0.1 * means[labels], labels
