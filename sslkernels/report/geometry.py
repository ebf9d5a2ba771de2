"""The tables of ``sslkernels report``: at most 100 columns wide, whatever was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sslkernels.evaluation import EmbeddingsResult, Evaluation, LabelingResult, scalars
from sslkernels.report.tables import table

_NAME = 16  # columns for a name, which is cut short there
_SHOTS = 4  # few-shot columns per table

Columns = Mapping[str, Callable[[Any], str]]  # by heading, what makes a cell of a result


def report(evaluation: Evaluation) -> list[RenderableType]:
    """What has been measured of labelings, then of embeddings; what was left out."""
    found = list(evaluation.embeddings.values())
    labelings = [labels for result in found for labels in result.labelings.values()]
    shown: list[RenderableType] = []
    for title in _titles(scalars.OF_LABELING):
        if columns := _columns(scalars.OF_LABELING, title, labelings):
            shown.append(_by_labeling(title, found, columns))
        if title == scalars.NCC:
            for few in _few_shot(labelings, evaluation.settings["few_shot_repeats"]):
                shown.append(_by_labeling(few[0], found, few[1]))
    if not labelings:
        shown.append(Text("No labels: class geometry was not measured.\n"))
    for title in _titles(scalars.OF_EMBEDDINGS):
        columns = _columns(scalars.OF_EMBEDDINGS, title, found)
        rows = table(title, ["embeddings"] if len(found) > 1 else [], list(columns))
        for result in found:
            names = [_name(result.name)] if len(found) > 1 else []
            rows.add_row(*names, *(cell(result) for cell in columns.values()))
        shown.append(rows)
    shown += [Text(line) for result in found for line in _left_out(result)]
    return shown


def _titles(statistics: Sequence[scalars.Statistic]) -> list[str]:
    return list(dict.fromkeys(each.table for each in statistics if each.table))


def _columns(
    statistics: Sequence[scalars.Statistic], title: str, results: Sequence[Any]
) -> dict[str, Callable[[Any], str]]:
    return scalars.columns([each for each in statistics if each.table == title], results)


def _by_labeling(title: str, found: Sequence[EmbeddingsResult], columns: Columns) -> Table:
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


def _few_shot(labelings: Sequence[LabelingResult], repeats: int) -> Iterator[tuple[str, Columns]]:
    shots = sorted({m for labels in labelings for m in labels.few_shot})

    def cell(m: int) -> Callable[[LabelingResult], str]:
        def text(labels: LabelingResult) -> str:
            few = labels.few_shot.get(m)
            if few is None:
                return scalars.MISSING
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
