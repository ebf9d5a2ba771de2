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

from sslkernels.cli import torchrun
from sslkernels.cli.console import OptionError, Rate, err, one_line_errors, out, progress
from sslkernels.cli.inputs import Inputs, Opened, arguments_as_options
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


def report(
    train: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]TRAIN...",
            help="Embeddings [N, D] that give the class centers: .npy, .safetensors, .pt or "
            ".parquet (PATH:KEY names what is inside), or a folder of shards. Several layers or "
            "checkpoints of the same rows, or one file of [L, N, D], are measured one by one.",
            show_default=False,
        ),
    ],
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels",
            metavar="[NAME=]FILE",
            help="Integer class labels [N] of TRAIN. Repeat for more labelings, each with a "
            "name: all are measured together. Default: those beside the data.",
            show_default=False,
        ),
    ] = None,
    superclasses: Annotated[
        list[str] | None,
        typer.Option(
            "--superclasses",
            metavar="[NAME=]FILE.npy",
            help="The superclass of each class of the first labeling, [C] integers: one more "
            "labeling, merged from that one. Repeatable.",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            "--test",
            metavar="[NAME=]TEST",
            help="Embeddings to classify with the centers of TRAIN; one for each TRAIN.",
            show_default=False,
        ),
    ] = None,
    test_labels: Annotated[
        list[str] | None,
        typer.Option(
            "--test-labels",
            metavar="[NAME=]FILE",
            help="Labels of TEST for the labeling of that name. Repeatable.",
            show_default=False,
        ),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(
            "--view",
            metavar="[NAME=]PATH",
            help="Embeddings of a second view of the rows of TRAIN, for alignment.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            metavar="[LABELING=]FILE.npy",
            help="Weights [C, D] of a linear classifier on the embeddings, for NC3 and NC4.",
            show_default=False,
        ),
    ] = None,
    bias: Annotated[
        list[str] | None,
        typer.Option(
            "--bias",
            metavar="[LABELING=]FILE.npy",
            help="Its bias [C].",
            show_default=False,
        ),
    ] = None,
    out_dir: Annotated[
        str,
        typer.Option("--out", metavar="DIR", help="Folder for report.html, .json, .csv and .png."),
    ] = "report",
    top_k: Annotated[
        str, typer.Option("--top-k", metavar="K,...", help="NCC among the K nearest centers.")
    ] = "1,5",
    few_shot: Annotated[
        str | None,
        typer.Option(
            "--few-shot",
            metavar="M,...",
            help="NCC with centers of M random rows per class; costs one reading of NCC per draw.",
            show_default=False,
        ),
    ] = None,
    few_shot_repeats: Annotated[int, typer.Option("--few-shot-repeats", min=1, help="Draws.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of draws and samples.")] = 0,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Divide each row by its length first.")
    ] = False,
    directional: Annotated[bool, typer.Option(help="Measure directional CDNV.")] = True,
    spectrum: Annotated[bool, typer.Option(help="Measure spectra: sums of D x D numbers.")] = True,
    uniformity_rows: Annotated[
        int,
        typer.Option("--uniformity-rows", min=0, help="Sample for uniformity; 0 leaves it out."),
    ] = 4096,
    ignore_label: Annotated[
        int, typer.Option("--ignore-label", help="Rows with this label are skipped.")
    ] = -100,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad", help="Leave out bad rows (NaN, infinity) and shards, and list them."
        ),
    ] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="Keep the progress there: a run that was killed goes on from it, to the same "
            "bits. Removed when the report is written.",
            show_default=False,
        ),
    ] = None,
    checkpoint_seconds: Annotated[
        float,
        typer.Option("--checkpoint-seconds", min=0.0, help="Time between two writings of it."),
    ] = 30.0,
    chunk_mb: Annotated[
        int, typer.Option("--chunk-mb", min=1, help="Size of the chunks that are read, in MiB.")
    ] = 256,
    chunk_rows: Annotated[
        int | None,
        typer.Option(
            "--chunk-rows",
            min=1,
            help="Rows per chunk, in place of --chunk-mb.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Where to measure: auto, cpu, cuda, cuda:1, ...")
    ] = "cpu",
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
        given = Inputs.named(train, labels, superclasses, test, test_labels, view, weights, bias)
        options: dict[str, Any] = {
            "top_k": _numbers("--top-k", top_k),
            "few_shot": _numbers("--few-shot", few_shot) if few_shot is not None else (),
            "few_shot_repeats": few_shot_repeats,
            "seed": seed,
            "normalize": normalize,
            "directional": directional,
            "spectrum": spectrum,
            "uniformity_rows": uniformity_rows,
            "ignore_index": ignore_label,
            "skip_bad": skip_bad,
            "chunk_rows": chunk_rows,
            "chunk_bytes": chunk_mb << 20,
            "checkpoint": checkpoint,
            "checkpoint_seconds": checkpoint_seconds,
        }
        with torchrun.ranks(device) as ranks, arguments_as_options():
            where, note = ranks.together(lambda: torchrun.device(device, ranks))
            if note:
                err.print(note)
            _on_first(ranks, lambda: writable(out_dir, _WRITTEN))
            opened = ranks.together(lambda: given.open(skip_bad))
            if ranks.rank == 0:
                # matplotlib takes half a second to import: the readings leave time for it.
                threading.Thread(target=import_module, args=[_FIGURES]).start()
            with _bars() as on_rows:
                result = evaluate(
                    **opened.arguments(),
                    **options,
                    cdnv_matrix=_MATRIX_CLASSES if len(opened.train) == 1 else 0,
                    device=where,
                    group="world" if ranks.size > 1 else None,
                    on_rows=on_rows,
                )
            _on_first(ranks, lambda: _write(out_dir, opened, result))
            if checkpoint is not None:
                path_of_rank(checkpoint, ranks).unlink(missing_ok=True)
        for table in geometry.report(result):
            out.print(table)
        folder = escape(str(Path(out_dir)))
        out.print(f"Wrote report.html, .json, .csv and .png to {folder}", soft_wrap=True)


def _numbers(option: str, values: str) -> list[int]:
    try:
        numbers = [int(value) for value in values.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise OptionError(f"{option} {values}: expected positive integers with commas between")
    return numbers


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


def _write(folder: str, opened: Opened, result: Evaluation) -> None:
    """Numbers before pictures, which are made of names and data that nobody has foreseen."""
    from sslkernels.report import document, figures, style

    described = opened.described()
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
