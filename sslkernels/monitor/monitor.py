"""``EmbeddingMonitor``: the class geometry of a model's layers, step by step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslkernels import _checks
from sslkernels._optional import needed
from sslkernels.evaluation.ranks import Ranks
from sslkernels.monitor import records
from sslkernels.monitor.layers import Pool, Taps, found, pools_for, untouched, unwrapped
from sslkernels.monitor.probe import Batch, Probe, parents_of, sizes_of, to_device
from sslkernels.monitor.sinks import Log
from sslkernels.monitor.sums import IGNORE, FirstSums, SecondSums, lost, rows

_SCATTER = 8192  # columns whose D x D scatter is kept: 512 MiB

Outputs = Iterable[tuple[dict[str, Tensor], Tensor]]
Kept = list[tuple[dict[str, Tensor], Tensor]]


class EmbeddingMonitor:
    """Measures what the embeddings of named layers cluster by, each time it is asked.

    A measurement runs the model over the training rows twice (means first, then every row against
    them; once with ``keep``) and over the test rows once, and accumulates sums: N x D is not kept.
    The model's mode, random states, gradients, hooks and autocast are left as they were. Recorded,
    for each layer:

    =================  ========================================================================
    rankme             RankMe of the training rows; effective_rank as in ``ssk.spectrum``
    variance           mean squared distance of the training rows to their mean
    ncc                share of rows nearest to the mean of their class among the training means
    ncc_unit           the same of rows of length 1
    linear_probe       share of rows that a ridge classifier in closed form gives their class
    cdnv               class-distance normalized variance, of train and of test rows
    directional_cdnv   within-class variance along the line to the other class only
    nc1                tr(Sigma_W Sigma_B^+) / C
    within_variance    mean squared distance of the training rows to the mean of their class
    =================  ========================================================================

    The first two rows of the table are of a layer, the others of each of its labelings.

    Args:
        model: any module; DistributedDataParallel and torch.compile are looked through.
        layers: names of modules as in ``model.named_modules()``; ``""`` is the model's output.
        train: ``(inputs, labels)`` tensors, or an iterable of such batches that can be read again
            (a DataLoader). Labels are integers [N], or a mapping from labeling to those; rows
            labelled -100 are skipped in that labeling. Rows bring their labels along, so their
            order may change between measurements; their number by class may not.
        test: rows to classify with what the training rows have shown; as ``train``.
        pool: how an output becomes one row per input: ``"mean"`` over space or tokens,
            ``"flatten"`` or a callable; or a mapping from layer to those.
        num_classes: C, for all labelings or by name; found in the labels where they are tensors.
        superclasses: by name the superclass of each class of the first labeling, [C] integers: one
            more labeling each.
        log: called as ``log({"layer/labeling/split/statistic": value}, step)``.
        out: a file of JSON lines, one row each, appended at every measurement.
        resume: go on with the rows that ``out`` holds; without it a file with rows is an error.
        keep: hold the pooled embeddings of the training rows during a measurement, and run the
            model over them once.
        batch_rows: rows at a time where the inputs are tensors.
        forward: ``forward(model, inputs)``; by default ``model(inputs)``, ``model(**inputs)`` for a
            mapping and ``model(*inputs)`` for a tuple or list.
        group: ``"world"`` or a process group: every rank constructs the same monitor, measures its
            share of the batches, and gets the rows of all; the first rank writes and logs.
        seed: of the random numbers that a loader draws during a measurement.

    Attributes:
        rows: dicts ``{step, layer, labeling, split, statistic, value}``, in order.
        seconds: time spent measuring so far.

    Raises:
        ValueError: a layer that the model does not have (near matches are listed), labels that do
            not go with the inputs, ``out`` that holds rows already.
        TypeError: data of a kind that cannot be read twice.

    Example:
        >>> import torch, sslkernels as ssk
        >>> from sslkernels.monitor import EmbeddingMonitor
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
        >>> labels = torch.arange(60) % 3
        >>> inputs = torch.eye(8)[labels] + 0.1 * torch.randn(60, 8)
        >>> monitor = EmbeddingMonitor(model, ["0"], (inputs, {"class": labels}))
        >>> measured = monitor.measure(step=0)
        >>> [row["statistic"] for row in measured][:4]
        ['rankme', 'effective_rank', 'variance', 'ncc']
        >>> monitor.value("ncc", layer="0", labeling="class")
        1.0
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        train: Any,
        *,
        test: Any = None,
        pool: Pool | Mapping[str, Pool] = "mean",
        num_classes: int | Mapping[str, int] | None = None,
        superclasses: Mapping[str, Any] | None = None,
        log: Log | None = None,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
        keep: bool = False,
        batch_rows: int = 1024,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        group: Any = None,
        seed: int = 0,
    ) -> None:
        self._model = unwrapped(model)
        self._layers = found(self._model, layers)
        self._taps = Taps(self._layers, pools_for(pool, layers))
        self._ranks = Ranks(group)
        self._group = None if group == "world" else group
        share = (self._ranks.rank, self._ranks.size)
        batch_rows = _checks.positive_int(batch_rows, "batch_rows")
        self._train = Probe("train", train, batch_rows, share)
        self._test = None if test is None else Probe("test", test, batch_rows, share)
        self._own = list(self._train.names)
        for name in self._test.names if self._test else ():
            if name not in self._own:
                raise ValueError(f"test: no labeling {name!r}; train has {self._own}")
        self._sizes = sizes_of(self._train, self._test, num_classes)
        self._parents = parents_of(superclasses or {}, self._own, self._sizes)
        self.labelings = [*self._own, *self._parents]
        tested = set(self._test.names) if self._test else set()
        self._tested = tested | (set(self._parents) if self._own[0] in tested else set())
        self._forward = forward or _call
        self._log, self._keep, self._seed = log, bool(keep), seed
        self._counts: dict[str, list[list[int]]] = {}
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._out = None if out is None else Path(out)
        if self._out is not None and self._out.exists() and self._out.stat().st_size:
            if not resume:
                raise ValueError(
                    f"out: {self._out} holds rows already; resume=True goes on with it"
                )
            self.rows = records.load(self._out)

    def measure(self, step: int, *, losses: Any = None) -> list[dict[str, Any]]:
        """Measure all layers now.

        Args:
            step: the number that the rows carry.
            losses: numbers to record beside them, a mapping or a named tuple of the terms of the
                loss; split it into what pulls views together and what regularizes to see which of
                them drives the clustering.

        Returns:
            The rows of this measurement, which are appended to :attr:`rows` and ``out`` and given
            to ``log``. A layer whose training embeddings hold NaN or infinity is recorded as NaN,
            and ``bad_rows`` says of how many rows.

        Raises:
            ValueError: a layer was not called once in a forward pass; the rows are not those of the
                first measurement. Nothing has been recorded then.
        """
        start = time.perf_counter()
        with untouched(self._model, self._device(), self._seed), self._taps.attached():
            measured = list(self._measure())
        self.seconds += time.perf_counter() - start
        terms = losses._asdict() if hasattr(losses, "_asdict") else dict(losses or {})
        found = [
            *(("", "", "train", name, _number(value)) for name, value in terms.items()),
            *measured,
        ]
        result = [dict(zip(records.COLUMNS, (int(step), *row), strict=True)) for row in found]
        if self._ranks.rank == 0:
            if self._out is not None:
                records.append(self._out, result)
            if self._log is not None:
                self._log(
                    {
                        "/".join(
                            str(row[key]) for key in records.COLUMNS[1:-1] if row[key] != ""
                        ): row["value"]
                        for row in result
                    },
                    int(step),
                )
        self.rows += result
        return result

    def value(
        self, statistic: str, *, layer: str = "", labeling: str = "", split: str = "train"
    ) -> float:
        """The latest value of one statistic.

        Raises:
            KeyError: it has not been measured.
        """
        wanted = (layer, labeling, split, statistic)
        for row in reversed(self.rows):
            if tuple(row[key] for key in records.COLUMNS[1:-1]) == wanted:
                return float(row["value"])
        raise KeyError(f"not measured: {dict(zip(records.COLUMNS[1:-1], wanted, strict=True))}")

    def to_pandas(self) -> Any:
        """:attr:`rows` as a ``pandas.DataFrame``; pandas must be installed."""
        pandas = needed("pandas", "pandas", "to_pandas")
        return pandas.DataFrame(self.rows, columns=list(records.COLUMNS))

    # ---- one measurement ---------------------------------------------------------------------

    def _device(self) -> torch.device:
        for tensor in (*self._model.parameters(), *self._model.buffers()):
            return tensor.device
        return torch.device("cpu")

    def _measure(self) -> Iterator[tuple[str, str, str, str, float]]:
        """``(layer, labeling, split, statistic, value)``, the same on every rank."""
        firsts, bad, kept = self._together(self._first_reading)
        every = self._ranks.gather(bad)
        bad = {name: sum(counts[name] for counts in every) for name in bad}
        firsts = {name: firsts[name] for name in self._layers if not bad[name]}
        self._reduce(firsts)
        for first in firsts.values():
            self._same_rows("train", [m.counts.tolist() for m in first.raw])
        trains = {name: SecondSums(first, training=True) for name, first in firsts.items()}
        self._together(lambda: _add(trains, kept or self._outputs(self._train), finite=True))
        self._reduce(trains)
        tests: dict[str, SecondSums] = {}
        if self._test is not None:
            on_test = self._outputs(self._test)
            tests = {name: SecondSums(first, training=False) for name, first in firsts.items()}
            self._together(lambda: _add(tests, on_test, finite=False))
            self._reduce(tests)
            for second in tests.values():
                self._same_rows("test", [m.counts.tolist() for m in second.moments])
        for name in self._layers:
            if bad[name]:
                yield name, "", "train", "bad_rows", float(bad[name])
                numbers = lost(self.labelings, self._tested)
            else:
                parts = (firsts[name], trains[name], tests.get(name))
                numbers = rows(self.labelings, *parts, self._tested)
            yield from ((name, *number) for number in numbers)

    def _together(self, work: Callable[[], Any]) -> Any:
        """``work()`` on every rank; if it fails on one, all fail before the next exchange."""
        return self._ranks.together(work)

    def _reduce(self, parts: Mapping[str, FirstSums] | Mapping[str, SecondSums]) -> None:
        if self._ranks.size > 1:
            for part in parts.values():
                part.all_reduce(self._group)

    def _first_reading(self) -> tuple[dict[str, FirstSums], dict[str, int], Kept]:
        """The sums of every layer, how many of its rows are not finite, and what is kept."""
        sizes = [self._sizes[name] for name in self.labelings]
        firsts: dict[str, FirstSums] = {}
        bad = dict.fromkeys(self._layers, 0)
        kept: Kept = []
        for layers, classes in self._outputs(self._train):
            for name, z in layers.items():
                if name not in firsts:
                    _check_columns(name, z)
                    firsts[name] = FirstSums(sizes, z)
                wrong = int((~z.isfinite().all(1)).sum())
                bad[name] += wrong
                if not wrong:
                    firsts[name].update(z, classes)
            if self._keep:
                kept.append((layers, classes))
        return firsts, bad, kept

    def _outputs(self, probe: Probe) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Batch by batch the rows of every layer and their classes int64 [K, n]."""
        device, empty = self._device(), True
        torch.manual_seed(self._seed)
        for batch in probe:
            empty = False
            inputs = to_device(batch.inputs, device)
            layers = self._taps.rows(
                lambda given: self._forward(self._model, given), inputs, batch.rows
            )
            classes = self._classes(probe.name, batch)
            yield layers, classes.to(next(iter(layers.values())).device)
        if empty:
            ranks = f" for one of {self._ranks.size} ranks" if self._ranks.size > 1 else ""
            raise ValueError(f"{probe.name}: yields no batch{ranks}")

    def _classes(self, split: str, batch: Batch) -> Tensor:
        out = torch.full((len(self.labelings), batch.rows), IGNORE, dtype=torch.int64)
        for k, name in enumerate(self._own):
            if name not in batch.labels:
                continue
            given, size = batch.labels[name].cpu(), self._sizes[name]
            wrong = (given != IGNORE) & ((given < 0) | (given >= size))
            if wrong.any():
                raise ValueError(
                    f"{split}: labels {name!r}: expected 0 to {size - 1}, or {IGNORE} for rows to "
                    f"skip, got {int(given[wrong][0])}"
                )
            out[k] = given
        fine = out[0]
        for k, parents in enumerate(self._parents.values(), len(self._own)):
            out[k] = torch.where(fine == IGNORE, IGNORE, parents[fine.clamp(min=0)])
        return out

    def _same_rows(self, split: str, counts: list[list[int]]) -> None:
        """Numbers by class are those of the first measurement: a curve is of the same rows."""
        before = self._counts.setdefault(split, counts)
        for name, old, new in zip(self.labelings, before, counts, strict=True):
            if old != new:
                c = next(
                    c for c, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1]
                )
                raise ValueError(
                    f"{split}: other rows than at the first measurement: class {c} of {name!r} "
                    f"had {old[c]} rows, now {new[c]}; expected the same rows each time"
                )


def _add(sums: Mapping[str, SecondSums], outputs: Outputs, *, finite: bool) -> None:
    for layers, classes in outputs:
        for name, second in sums.items():
            z = layers[name]
            if finite and not z.isfinite().all():
                raise ValueError(
                    f"layers: {name!r}: NaN or infinity among its outputs for rows that gave none "
                    "before; the model is not the same at every reading"
                )
            second.update(z, classes)


def _check_columns(name: str, z: Tensor) -> None:
    if z.shape[1] > _SCATTER:
        gib = z.shape[1] ** 2 * 8 / 2**30
        raise ValueError(
            f"layers: {name!r}: {z.shape[1]} columns, whose scatter takes {gib:.1f} GiB; pool it "
            f"to at most {_SCATTER}, for instance with pool={{{name!r}: 'mean'}}"
        )


def _number(value: Any) -> float:
    return float(value.detach() if isinstance(value, Tensor) else value)


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)
