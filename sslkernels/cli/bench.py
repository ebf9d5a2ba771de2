"""``sslkernels bench``: the quick comparison of speed and error."""

from __future__ import annotations

import re
from typing import Annotated

import torch
import typer

from sslkernels.cli import devices
from sslkernels.cli.console import OptionError, err, one_line_errors, out, progress
from sslkernels.report import tables
from sslkernels.report.files import dumps, versions
from sslkernels.report.speed import Comparison, Sizes, compare


def bench(
    vicreg: Annotated[
        list[str] | None,
        typer.Option(
            "--vicreg",
            metavar="NxD",
            help="Batch and width for VICReg. Repeatable. Default: 256x2048 and 256x8192.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows for NCC.")] = Sizes.rows,
    dim: Annotated[int, typer.Option("--dim", min=1, help="Columns for NCC.")] = Sizes.dim,
    classes: Annotated[int, typer.Option("--classes", min=2, help="For NCC.")] = Sizes.classes,
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=0.0, help="Seconds of repetitions, per contender."),
    ] = 1.0,
    device: Annotated[
        str,
        typer.Option("--device", help="auto, cpu, cuda, ...; scikit-learn uses the CPU."),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare speed and error with the official VICReg formula and scikit-learn, in seconds.

    The full tables, with more rivals and the machine's own limits, are those of "make bench" in the
    source tree.

    [bold]Examples[/bold]

      sslkernels bench

      sslkernels bench --vicreg 512x4096 --rows 200000 --dim 1024 --classes 1000
    """
    with one_line_errors():
        where, note = devices.choose(device)
        if note:
            err.print(note)
        if classes > rows:
            raise OptionError(f"--classes: at most --rows, {rows}, got {classes}")
        shapes = [_shape(text) for text in vicreg] if vicreg else Sizes.vicreg
        sizes = Sizes(shapes, rows, dim, classes)
        comparisons = run(sizes, where, seconds)
        if as_json:
            content = {
                "versions": versions(),
                "device": devices.name(where),
                "speed": [c.as_json() for c in comparisons],
            }
            typer.echo(dumps(content))
        else:
            out.print(tables.speed(comparisons, devices.name(where)))


def run(sizes: Sizes, device: torch.device, seconds: float) -> list[Comparison]:
    """The comparisons, with a progress bar."""
    done: list[Comparison] = []
    with progress() as bars:
        task = bars.add_task("Measuring speed", total=len(sizes.vicreg) + 2)
        for comparison in compare(sizes, device, seconds):
            done.append(comparison)
            bars.advance(task)
    return done


def _shape(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[x,](\d+)", text)
    if not match or int(match[1]) < 2 or int(match[2]) < 2:
        raise OptionError(f"--vicreg {text}: expected NxD such as 256x2048, each at least 2")
    return int(match[1]), int(match[2])
