"""Class-geometry statistics as ``torchmetrics.Metric``s: :class:`CDNV`, :class:`NCCAccuracy`,
:class:`NeuralCollapse`.

They follow torchmetrics: ``update``, ``compute``, ``forward`` and ``reset``, ``MetricCollection``
(CDNV and a NeuralCollapse without NC1 share one state there; metrics with other centers, ``top_k``
or ``ignore_index`` do not), synchronization over ranks at ``compute``, and ``merge_state``. Values
are those of the functions of the same data, float64.

What is kept is one flat float64 tensor: counts, sums of squares and means of the classes,
C (D + 2) numbers, and D x D more where NC1 is wanted; and a hash of the options. Means of ranks, or
of batches, are no plain sums: states are gathered and merged as a whole, exactly
(``sslkernels/statistics/class_moments.py``). Needs torchmetrics: ``pip install
sslkernels[torchmetrics]``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from sslkernels import _checks
from sslkernels.statistics import _rows
from sslkernels.statistics.cdnv import cdnv
from sslkernels.statistics.class_moments import ClassMoments
from sslkernels.statistics.ncc_scores import NCCScoresPass
from sslkernels.statistics.neural_collapse import neural_collapse
from sslkernels.statistics.pooled_scatter import PooledScatter

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError(
        "sslkernels.compat.torchmetrics needs torchmetrics: pip install sslkernels[torchmetrics]"
    ) from error


class _Statistic(Metric):
    """A metric whose state keeps its dtype when the model that holds it is cast.

    Annotations of its attributes are for type checkers alone: torch.jit.script resolves those that
    a class has when it runs, and knows no strings.
    """

    is_differentiable = False
    full_state_update = False

    def _tell_apart(self, *options: Any) -> None:
        """Add a state that never changes: a hash of the options that ``update`` depends on.

        MetricCollection lets metrics whose states are equal after one batch share them from then
        on: also those that would read the next batch differently, without this.
        """
        digest = hashlib.blake2b(digest_size=8)
        for option in options:
            if isinstance(option, Tensor):
                digest.update(f"{option.dtype} {option.shape}".encode())
                option = option.cpu().resolve_neg().contiguous().view(torch.uint8).numpy()
                digest.update(option.tobytes())
            else:
                digest.update(repr(option).encode())
        # Byte by byte: states are compared by torch.allclose, for which large integers are equal.
        self.add_state("options", torch.tensor([*digest.digest()]), dist_reduce_fx=_of_equals)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        return super()._apply(lambda t: t.to(fn(t).device), exclude_state)


def _of_equals(options: Tensor) -> Tensor:
    """The hash that all of [W, 8] are."""
    if bool((options != options[0]).any()):
        raise ValueError("states of metrics with different options (centers, ...) do not add up")
    return options[0]


class _Layout(NamedTuple):
    """What a flat state holds: counts [C], m2 [C], means [C, D] and the scatter [D, D] if any."""

    num_classes: int
    dim: int
    scatter: bool

    def empty(self) -> Tensor:
        c, d = self.num_classes, self.dim
        return torch.zeros(c * (2 + d) + d * d * self.scatter, dtype=torch.float64)

    def read(self, state: Tensor) -> ClassMoments | PooledScatter:
        """Moments, or the scatter, on the memory of the state; counts are a copy."""
        c, d = self.num_classes, self.dim
        counts, m2, mean, scatter = state.split([c, c, c * d, len(state) - c * (2 + d)])
        moments = ClassMoments(counts.long(), mean.view(c, d), m2, torch.float64)
        return PooledScatter(moments, scatter.view(d, d)) if self.scatter else moments

    def flat(self, value: ClassMoments | PooledScatter) -> Tensor:
        parts = value.state_dict()
        names = ("counts", "m2", "mean", "scatter")
        return torch.cat([parts[name].double().flatten() for name in names if name in parts])

    def merge(self, states: Tensor) -> Tensor:
        """[S] from the [W, S] of ranks or batches, in their order."""
        first, *others = states.clone().unbind()
        merged: Any = self.read(first)
        for other in others:
            merged.merge(self.read(other))
        return self.flat(merged)


class _ClassStatistic(_Statistic):
    """A statistic of class moments, and of the pooled scatter if asked for."""

    higher_is_better = False
    if TYPE_CHECKING:
        state: Tensor

    def __init__(
        self, num_classes: int, dim: int, scatter: bool, ignore_index: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = _checks.positive_int(num_classes, "num_classes")
        self.dim = _checks.positive_int(dim, "dim")
        self.ignore_index = ignore_index
        self._layout = _Layout(self.num_classes, self.dim, scatter)
        self.add_state("state", self._layout.empty(), dist_reduce_fx=self._layout.merge)
        self._tell_apart(*self._layout, ignore_index)

    def update(self, z: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            z: [N, D] embeddings: fp16, bf16, fp32 or fp64, any strides.
            labels: [N] integers in ``[0, num_classes)`` or ``ignore_index``.

        Raises:
            ValueError: wrong shape or device, or a label out of range, naming its row. Nothing has
                been added then.
            TypeError: wrong dtype.
        """
        # A device reports bad labels when it is done with the rows: here none must have been added.
        rows, classes = _rows.checked(z, labels, self.num_classes, self.ignore_index)
        value = self._layout.read(self.state)
        value.update(rows, classes, ignore_index=-1)
        moments = value.moments if isinstance(value, PooledScatter) else value
        self.state[: self.num_classes] = moments.counts


class CDNV(_ClassStatistic):
    """Class-distance normalized variance, as :func:`sslkernels.cdnv`.

    Args:
        num_classes: C.
        dim: D, the columns of the embeddings.
        convention: ``"galanti"`` as published, ``"sum"`` for twice as much.
        ignore_index: rows with this label are skipped.
        kwargs: of ``torchmetrics.Metric``, such as ``dist_sync_on_step``.

    ``compute`` gives a float64 0-d tensor; NaN with fewer than two non-empty classes.

    Example:
        >>> import torch
        >>> from sslkernels.compat.torchmetrics import CDNV
        >>> metric = CDNV(num_classes=2, dim=2)
        >>> metric.update(torch.tensor([[-1., 0.], [1., 0.], [9., 0.]]), torch.tensor([0, 0, 1]))
        >>> metric.update(torch.tensor([[11., 0.]]), torch.tensor([1]))
        >>> float(metric.compute())
        0.01
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        convention: str = "galanti",
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, dim, False, ignore_index, **kwargs)
        self.convention = _checks.one_of(convention, "convention", ("galanti", "sum"))

    def compute(self) -> Tensor:
        moments = self._layout.read(self.state)
        assert isinstance(moments, ClassMoments)
        return cdnv(moments, convention=self.convention)


class NeuralCollapse(_ClassStatistic):
    """NC1 to NC3, as :func:`sslkernels.neural_collapse`.

    NC1 takes the pooled within-class scatter: a D x D matrix (32 MB at D = 2048) and D^2 operations
    per row. Without it the state is C (D + 2) numbers. NC4 compares rows with the final class
    means: it takes a second pass, :class:`sslkernels.NeuralCollapsePass`.

    Args:
        num_classes: C.
        dim: D, the columns of the embeddings.
        nc1: whether NC1 is wanted.
        weight: [C, D] of the linear classifier on the embeddings, for NC3. Its memory is read at
            ``compute``: what an optimizer changed in place by then counts.
        ignore_index: rows with this label are skipped.
        kwargs: of ``torchmetrics.Metric``, such as ``dist_sync_on_step``.

    ``compute`` gives a dict of float64 0-d tensors: ``nc1``, ``nc2_norms``, ``nc2_angles`` and
    ``nc3``, without those that were not asked for; NaN with fewer than two non-empty classes.

    Example:
        >>> import torch
        >>> from sslkernels.compat.torchmetrics import NeuralCollapse
        >>> z = torch.tensor([[1., .1], [1., -.1], [-.5, .8], [-.5, .9], [-.6, -.8], [-.4, -.9]])
        >>> metric = NeuralCollapse(num_classes=3, dim=2)
        >>> metric.update(z, torch.tensor([0, 0, 1, 1, 2, 2]))
        >>> {name: round(float(value), 4) for name, value in metric.compute().items()}
        {'nc1': 0.0057, 'nc2_norms': 0.0066, 'nc2_angles': 0.0094}
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        nc1: bool = True,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, dim, bool(nc1), ignore_index, **kwargs)
        if weight is not None and weight.shape != (num_classes, dim):
            raise ValueError(
                f"weight: expected shape {[num_classes, dim]}, got {list(weight.shape)}"
            )
        self._weight = None if weight is None else weight.detach()

    def compute(self) -> dict[str, Tensor]:
        weight = None if self._weight is None else self._weight.to(self.state.device)
        found = neural_collapse(self._layout.read(self.state), weight=weight)
        return {name: value for name, value in found._asdict().items() if value is not None}


class NCCAccuracy(_Statistic):
    """Accuracy of the nearest of given class centers, as :func:`sslkernels.ncc_scores`.

    Args:
        centers: [C, D] tensor, or :class:`sslkernels.ClassMoments` such as of the training data. A
            center that is not finite is an empty class and never the nearest.
        top_k: a row is right if its class is among the k nearest; several k at once give as many
            values for one pass.
        average: ``"micro"``, the share of all rows; ``"macro"``, the mean over classes with rows;
            ``"none"``, [C] per class, NaN for classes without rows. The last two for the nearest
            center alone, ``top_k=1``.
        ignore_index: rows with this label are skipped.
        kwargs: of ``torchmetrics.Metric``, such as ``dist_sync_on_step``.

    ``compute`` gives a float64 0-d tensor, or [K] for K values of k; NaN if no row is labelled.
    Rows that hold NaN or infinity count as wrong. The state is a few numbers per class.

    Example:
        >>> import torch
        >>> from sslkernels.compat.torchmetrics import NCCAccuracy
        >>> centers = torch.tensor([[0., 0.], [4., 0.], [9., 0.]])
        >>> metric = NCCAccuracy(centers, top_k=(1, 2))
        >>> metric.update(torch.tensor([[1., 1.], [3., 1.]]), torch.tensor([0, 0]))
        >>> metric.compute().tolist()
        [0.5, 1.0]
    """

    higher_is_better = True

    def __init__(
        self,
        centers: Tensor | ClassMoments,
        *,
        top_k: int | Sequence[int] = 1,
        average: str = "micro",
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.top_k = top_k
        self.average = _checks.one_of(average, "average", ("micro", "macro", "none"))
        if average != "micro" and top_k != 1:
            raise ValueError(f"average: {average!r} needs top_k=1, got {top_k}")
        self.ignore_index = ignore_index
        self._ks = (top_k,) if isinstance(top_k, int) else tuple(top_k)
        given = centers.centers() if isinstance(centers, ClassMoments) else centers
        self._scores = self._fresh(given)
        self._centers = given.detach()
        for name, total in self._scores.state_dict().items():
            self.add_state(name, torch.zeros_like(total), dist_reduce_fx="sum")
        self._tell_apart(self._centers, self._ks, ignore_index)

    def update(self, z: Tensor, labels: Tensor) -> None:
        """Add a batch: z [N, D] embeddings, labels [N] integers in ``[0, C)`` or ``ignore_index``.

        Raises:
            ValueError: wrong shape or device, or a label out of range, naming its row.
            TypeError: wrong dtype.
        """
        scores = self._loaded()
        scores.update(z, labels, ignore_index=self.ignore_index)
        for name, total in scores.state_dict().items():
            setattr(self, name, total)

    def compute(self) -> Tensor:
        scores = self._loaded().compute()
        if self.average == "macro":
            return scores.per_class.nanmean()
        if self.average == "none":
            return scores.per_class
        return scores.top_k[0] if isinstance(self.top_k, int) else scores.top_k

    def _fresh(self, centers: Tensor) -> NCCScoresPass:
        return NCCScoresPass(centers, top_k=self._ks)

    def _loaded(self) -> NCCScoresPass:
        """The pass with this metric's sums, on their device."""
        sums = {name: getattr(self, name) for name in self._scores.state_dict()}
        device = next(iter(sums.values())).device
        if self._centers.device != device:
            self._centers = self._centers.to(device)
            self._scores = self._fresh(self._centers)
        return self._scores.load_state_dict(sums)
