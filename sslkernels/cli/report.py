"""``sslkernels report``: class geometry of embeddings in files."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import TaskID

from sslkernels.cli import inputs, torchrun
from sslkernels.cli import options as settings
from sslkernels.cli.console import Rate, err, one_line_errors, out, progress
from sslkernels.cli.inputs import arguments_as_options
from sslkernels.data.errors import first_line
from sslkernels.evaluation import Evaluation, evaluate
from sslkernels.evaluation.checkpoint import path_of_rank
from sslkernels.evaluation.ranks import Ranks
from sslkernels.report import content, geometry
from sslkernels.report.files import OutputError, staged, writable, write_json

_MATRIX_CLASSES = 2048  # up to this many classes, the CDNV matrix is drawn (32 MB)
_FIGURES = "sslkernels.report.figures"
_WRITTEN = ("report.json", "report.csv", "report.png", "report.html")
_STAGES = {
    "moments": "Class moments",
    "train": "Training rows",
    "test": "Test rows",
    "views": "Second view",
}


def _paths(flag: str, metavar: str, help: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=help, show_default=False)


_Paths = list[str] | None
# fmt: off
_Labels = Annotated[_Paths, _paths(
    "--labels", "[NAME=]FILE",
    "Integer class labels [N] of TRAIN. Repeat for more labelings, each with a name: all are "
    "measured together. Default: those beside the data.")]
_Superclasses = Annotated[_Paths, _paths(
    "--superclasses", "[NAME=]FILE.npy",
    "The superclass of each class of the first labeling, [C] integers: one more labeling, merged "
    "from that one. Repeatable.")]
_Test = Annotated[_Paths, _paths(
    "--test", "[NAME=]TEST",
    "Embeddings to classify with the centers of TRAIN; one for each TRAIN.")]
_TestLabels = Annotated[_Paths, _paths(
    "--test-labels", "[NAME=]FILE", "Labels of TEST for the labeling of that name. Repeatable.")]
_View = Annotated[_Paths, _paths(
    "--view", "[NAME=]PATH", "Embeddings of a second view of the rows of TRAIN, for alignment.")]
_Weights = Annotated[_Paths, _paths(
    "--weights", "[LABELING=]FILE.npy",
    "Weights [C, D] of a linear classifier on the embeddings, for NC3 and NC4.")]
_Bias = Annotated[_Paths, _paths(
    "--bias", "[LABELING=]FILE.npy", "Bias [C] of that classifier.")]
# fmt: on


@settings.with_settings
def report(
    train: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]TRAIN...",
            help="Embeddings [N, D] for the class centers: .npy, .safetensors, .pt or "
            ".parquet (PATH:KEY names what is inside), or a folder of shards. Several layers or "
            "checkpoints of the same rows, or one file of [L, N, D], are measured one by one.",
            show_default=False,
        ),
    ],
    labels: _Labels = None,
    superclasses: _Superclasses = None,
    test: _Test = None,
    test_labels: _TestLabels = None,
    view: _View = None,
    weights: _Weights = None,
    bias: _Bias = None,
    out_dir: Annotated[
        str,
        typer.Option("--out", metavar="DIR", help="Folder for report.html, .json, .csv and .png."),
    ] = "report",
    device: Annotated[
        str, typer.Option("--device", help="Where to measure: auto, cpu, cuda, cuda:1, ...")
    ] = "cpu",
    **options: Any,
) -> None:
    """Measure the class geometry of embeddings under one or more labelings.

    CDNV (class-distance normalized variance) is the within-class variance over the squared distance
    between class means, averaged over pairs of classes: 0 for collapsed classes. NCC is the share
    of rows whose nearest class center is that of their label. NC1 to NC4 are those of neural
    collapse. RankMe, effective rank and others are of the spectrum.

    The files are streamed, so they may be larger than memory: TRAIN is read twice, TEST once.
    Prints tables; writes DIR/report.html (one page, no network needed), DIR/report.json,
    DIR/report.csv (one number per line) and DIR/report.png.

    [bold]Examples[/bold]

      sslkernels report train.npy --labels y.npy

      sslkernels report train.npy --labels fine=y.npy --labels coarse=y20.npy
      --test test.npy --test-labels fine=y_test.npy --out resnet50

      sslkernels report layer3=l3.npy layer4=l4.npy --labels y.npy --few-shot 1,5

      torchrun --nproc-per-node 4 -m sslkernels report shards/ --labels labels/
      --checkpoint progress.ckpt
    """
    with one_line_errors():
        given = inputs.named(
            train,
            labels=labels,
            superclasses=superclasses,
            test=test,
            test_labels=test_labels,
            view=view,
            weights=weights,
            bias=bias,
        )
        arguments = settings.arguments(options)
        with torchrun.ranks(device) as ranks, arguments_as_options():
            where, note = ranks.together(lambda: torchrun.device(device, ranks))
            if note:
                err.print(note)
            _on_first(ranks, lambda: writable(out_dir, _WRITTEN))
            opened = ranks.together(lambda: inputs.opened(given, options["skip_bad"]))
            if ranks.rank == 0:
                # matplotlib takes half a second to import: the readings leave time for it.
                threading.Thread(target=import_module, args=[_FIGURES]).start()
            with _bars() as on_rows:
                result = evaluate(
                    **inputs.arguments(given, opened),
                    **arguments,
                    cdnv_matrix=_MATRIX_CLASSES if len(opened["train"]) == 1 else 0,
                    device=where,
                    group="world" if ranks.size > 1 else None,
                    on_rows=on_rows,
                )
            _on_first(ranks, lambda: _write(out_dir, inputs.described(given, opened), result))
            if options["checkpoint"] is not None:
                path_of_rank(options["checkpoint"], ranks).unlink(missing_ok=True)
        for table in geometry.report(result):
            out.print(table)
        folder = escape(str(Path(out_dir)))
        out.print(f"Wrote report.html, .json, .csv and .png to {folder}", soft_wrap=True)


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[str, str, int, int | None], None]]:
    """A progress bar for every reading: what ``on_rows`` of :func:`evaluate` takes."""
    with progress(Rate()) as bars:
        tasks: dict[tuple[str, str], TaskID] = {}

        def on_rows(name: str, stage: str, rows: int, total: int | None) -> None:
            if (name, stage) in tasks:
                bars.advance(tasks[name, stage], rows)
            else:  # the first rows are those that a checkpoint has kept
                words = f"{name} {_STAGES[stage]}".strip()
                tasks[name, stage] = bars.add_task(escape(words), total=total, completed=rows)

        yield on_rows


def _on_first(ranks: Ranks, work: Callable[[], None]) -> None:
    """``work()`` on rank 0; where it fails, all ranks do."""
    ranks.together(lambda: None if ranks.rank else work())


def _write(folder: str, described: dict[str, Any], result: Evaluation) -> None:
    """Numbers before pictures, which are made of names and data that nobody has foreseen."""
    from sslkernels.report import document, figures, style

    undrawn: Exception | None = None
    with staged(folder) as stage:
        write_json(stage / "report.json", content.report(result, described))
        result.to_csv(stage / "report.csv")
        try:
            style.save(figures.report(result), stage / "report.png")
        except Exception as error:
            undrawn = error
            (stage / "report.png").unlink(missing_ok=True)
        picture = None if undrawn else (stage / "report.png").read_bytes()
        (stage / "report.html").write_text(
            document.document(result, described, picture), encoding="utf-8"
        )
    if undrawn is None:
        return
    earlier = Path(folder, "report.png")
    earlier.unlink(missing_ok=True)  # of other numbers
    words = "report.html, .json and .csv are written"
    if isinstance(undrawn, OSError):
        reason = first_line(undrawn)
        raise OutputError(f"{earlier}: cannot be written: {reason}; {words}") from undrawn
    err.print(escape(f"{earlier}: cannot be drawn; {words}"))
    raise undrawn
