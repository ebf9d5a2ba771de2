"""``sslkernels study``: what embeddings cluster by while a model trains, on real digits."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import TextColumn

from sslkernels.cli import devices
from sslkernels.cli.console import OptionError, err, one_line_errors, out, progress
from sslkernels.report import tables
from sslkernels.report.files import writable


def study(
    out_dir: Annotated[
        str, typer.Option("--out", metavar="DIR", help="Folder of the report and of all runs.")
    ] = "study-results",
    quick: Annotated[
        bool, typer.Option("--quick", help="Two seeds, a few epochs: under a minute.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Trainings of each kind. Default: 3.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Passes over the images. Default: 40.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            metavar="A,B",
            help="Any of vicreg, simclr, barlow-twins, sigreg, supervised. "
            "Default: vicreg,simclr,supervised.",
        ),
    ] = None,
    ablations: Annotated[
        bool | None,
        typer.Option(help="Also train VICReg's invariance and its regularization alone."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the study in DIR, with its settings.")
    ] = False,
    report_only: Annotated[
        bool,
        typer.Option("--report-only", help="Make the report of the runs in DIR; train nothing."),
    ] = False,
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda, ...; auto takes a usable GPU.")
    ] = "auto",
) -> None:
    """Measure what embeddings cluster by while small encoders of handwritten digits train.

    Trains VICReg, SimCLR, a supervised encoder and each half of VICReg alone, with several seeds,
    and measures clustering by sample, class, superclass and targets from random to semantic, layer
    by layer. Writes report.html, which needs no network, study.csv, study.json and the figures.
    Takes under five minutes on two cores; nothing is downloaded. --resume continues an interrupted
    study.

    [bold]Examples[/bold]

      sslkernels study

      sslkernels study --quick --out look

      sslkernels study --methods vicreg,barlow-twins,sigreg --seeds 5 --out long

      sslkernels study --out long --resume
    """
    with one_line_errors():
        from sslkernels.study import StudySettings, make

        where, note = devices.choose(device)
        if note:
            err.print(note)
        changed: dict[str, Any] = {"seeds": seeds, "epochs": epochs, "ablations": ablations}
        if methods is not None:
            changed["methods"] = tuple(name.strip() for name in methods.split(",") if name.strip())
        changed = {key: value for key, value in changed.items() if value is not None}
        writable(out_dir)
        try:
            settings = replace(StudySettings.quick() if quick else StudySettings(), **changed)
            asked = None if (resume or report_only) and not (changed or quick) else settings
            with progress(TextColumn("{task.fields[run]}")) as bars:
                total = len(settings.runs()) * settings.epochs
                task = bars.add_task("Training", total=total, run="")
                ended: dict[tuple[int, str], int] = {}

                def on_epoch(seed: int, method: str, done: int) -> None:
                    ended[seed, method] = done
                    bars.update(task, completed=sum(ended.values()), run=f"{method}, seed {seed}")

                found = make(
                    out_dir,
                    asked,
                    resume=resume,
                    train=not report_only,
                    device=where,
                    on_epoch=on_epoch,
                    command="sslkernels " + shlex.join(sys.argv[1:]),
                )
        except ValueError as error:
            raise OptionError(str(error)) from None
        rows = tables.table(
            "Findings of the paper, and what these runs show",
            ["finding", "these runs"],
            ["verdict"],
        )
        for finding in found:
            rows.add_row(escape(finding.claim), escape(finding.shown), finding.verdict)
        out.print(rows)
        page = Path(out_dir) / "report.html"
        out.print(f"Wrote [bold]{escape(str(page))}[/], study.csv, study.json and the figures")
