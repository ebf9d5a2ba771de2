"""The tables of ``sslkernels report``: at most 100 columns wide, whatever was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sslkernels.evaluation import NCC, EmbeddingsResult, Evaluation, LabelingResult
from sslkernels.report.tables import number, percent, table

_NAME = 16  # columns for a name, which is cut short there
_SHOTS = 4  # few-shot columns per table

Cell = Callable[[LabelingResult], str]


def report(evaluation: Evaluation) -> list[RenderableType]:
    """Class geometry, NCC and neural collapse by labeling; spectra; what was left out."""
    found = list(evaluation.embeddings.values())
    labelings = [labels for result in found for labels in result.labelings.values()]
    shown: list[RenderableType] = []
    if labelings:
        for title, columns in (
            ("Class geometry", _geometry(labelings)),
            ("Nearest class center", _ncc(labelings)),
            *_few_shot(labelings, evaluation.settings["few_shot_repeats"]),
            ("Neural collapse", _collapse(labelings)),
        ):
            shown.append(_by_labeling(title, found, columns))
    else:
        shown.append(Text("No labels: class geometry was not measured.\n"))
    shown.append(_embeddings(found))
    shown += [Text(line) for result in found for line in _left_out(result)]
    return shown


def _by_labeling(title: str, found: Sequence[EmbeddingsResult], columns: dict[str, Cell]) -> Table:
    several = len(found) > 1
    rows = table(title, [*(["embeddings"] if several else []), "labeling"], list(columns))
    for result in found:
        for i, labels in enumerate(result.labelings.values()):
            names = [_name(result.name if i == 0 else "")] if several else []
            cells = [cell(labels) for cell in columns.values()]
            last = several and i == len(result.labelings) - 1 and i > 0
            rows.add_row(*names, _name(labels.name), *cells, end_section=last)
    return rows


def _name(name: str) -> str:
    return escape(name if len(name) <= _NAME else name[: _NAME - 1] + "…")


def _geometry(labelings: Sequence[LabelingResult]) -> dict[str, Cell]:
    columns: dict[str, Cell] = {
        "classes": lambda x: f"{x.num_classes:,}",
        "non-empty": lambda x: f"{x.non_empty:,}",
        "CDNV": lambda x: number(x.cdnv),
    }
    if any(labels.directional_cdnv is not None for labels in labelings):
        columns["directional"] = lambda x: _optional(x.directional_cdnv)
    return columns


def _ncc(labelings: Sequence[LabelingResult]) -> dict[str, Cell]:
    columns: dict[str, Cell] = {}

    def share(split: Callable[[LabelingResult], NCC | None], k: int) -> Cell:
        def cell(labels: LabelingResult) -> str:
            ncc = split(labels)
            return "–" if ncc is None else percent(ncc.top_k[k])

        return cell

    ks = _shown(list(labelings[0].train.top_k))
    for k in ks:
        columns[f"train\ntop-{k}"] = share(lambda x: x.train, k)
    columns["leave-\none-out"] = lambda x: _percent(x.train.leave_one_out)
    if any(labels.test is not None for labels in labelings):
        for k in ks:
            columns[f"test\ntop-{k}"] = share(lambda x: x.test, k)
    return columns


def _shown(ks: Sequence[int]) -> list[int]:
    """The k that a table has place for; the files have all."""
    return list(ks) if len(ks) <= 2 else [ks[0], ks[-1]]


def _few_shot(
    labelings: Sequence[LabelingResult], repeats: int
) -> Iterator[tuple[str, dict[str, Cell]]]:
    shots = sorted({m for labels in labelings for m in labels.few_shot})

    def cell(m: int) -> Cell:
        def text(labels: LabelingResult) -> str:
            few = labels.few_shot.get(m)
            if few is None:
                return "–"
            spread = "" if repeats == 1 else f" ± {100 * few.std:.2f}"
            return f"{100 * few.mean:.2f}{spread} %"

        return text

    tested = {labels.test is not None for labels in labelings}
    where = {True: " on test rows", False: " on training rows that were not drawn"}
    title = f"Few-shot NCC{where[tested.pop()] if len(tested) == 1 else ''}"
    draws = f"{repeats} draw{'s' if repeats > 1 else ''}"
    for start in range(0, len(shots), _SHOTS):
        part = shots[start : start + _SHOTS]
        yield f"{title}, {draws}", {f"{m}-shot": cell(m) for m in part}


def _collapse(labelings: Sequence[LabelingResult]) -> dict[str, Cell]:
    columns: dict[str, Cell] = {
        "NC1": lambda x: number(x.nc1),
        "NC2 norms": lambda x: number(x.nc2_norms),
        "NC2 angles": lambda x: number(x.nc2_angles),
    }
    if any(labels.nc3 is not None for labels in labelings):
        columns["NC3"] = lambda x: _optional(x.nc3)
        columns["NC4"] = lambda x: _percent(x.nc4)
    return columns


def _embeddings(found: Sequence[EmbeddingsResult]) -> Table:
    columns: dict[str, Callable[[EmbeddingsResult], str]] = {
        "rows": lambda x: f"{x.rows:,}",
        "D": lambda x: f"{x.dim}",
    }
    if any(result.spectrum is not None for result in found):
        for head, key in (
            ("\nRankMe", "rankme"),
            ("effective\nrank", "effective_rank"),
            ("particip.\nratio", "participation_ratio"),
            ("\nalpha", "alpha"),
        ):
            columns[head] = lambda x, key=key: _optional(  # type: ignore[misc]
                None if x.spectrum is None else getattr(x.spectrum, key)
            )
    columns["unit\nstd"] = lambda x: number(x.normalized_std)
    for name in ("uniformity", "alignment"):
        if any(getattr(result, name) is not None for result in found):
            columns["uni-\nformity" if name == "uniformity" else "align-\nment"] = (
                lambda x, name=name: _optional(getattr(x, name))  # type: ignore[misc]
            )
    several = len(found) > 1
    rows = table("Embeddings", ["embeddings"] if several else [], list(columns))
    for result in found:
        cells = [cell(result) for cell in columns.values()]
        rows.add_row(*([_name(result.name)] if several else []), *cells)
    return rows


def _left_out(result: EmbeddingsResult) -> Iterator[str]:
    of = f" of {result.name}" if result.name else ""
    for split, bad in result.bad.items():
        if bad["count"]:
            count, first = bad["count"], bad["first"]
            more = f", and {count - len(first[:5]):,} more" if count > len(first[:5]) else ""
            rows = "row" if count == 1 else "rows"
            yield (
                f"Left out: {count:,} {split} {rows}{of} with NaN or infinity: "
                f"{', '.join(first[:5])}{more}"
            )
    for line in result.skipped:
        yield f"Left out{of}: {line}"


def _optional(value: float | None) -> str:
    return "–" if value is None else number(value)


def _percent(value: float | None) -> str:
    return "–" if value is None else percent(value)
