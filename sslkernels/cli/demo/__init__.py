"""``sslkernels demo``: VICReg on real digits, and what CDNV and NCC say it learned."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import TextColumn
from rich.table import Table

from sslkernels.cli import bench, devices
from sslkernels.cli.console import err, one_line_errors, out, progress
from sslkernels.cli.demo.measure import Snapshot, snapshot
from sslkernels.cli.demo.train import calibrate, train
from sslkernels.evaluation.scalars import number
from sslkernels.report import tables
from sslkernels.report.files import staged, versions, write_json
from sslkernels.report.speed import Sizes
from sslkernels.study import digits
from sslkernels.study.network import build

_WEIGHTS = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}


def demo(
    out_dir: Annotated[
        str, typer.Option("--out", metavar="DIR", help="Folder for figures and demo.json.")
    ] = "demo-results",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of split, weights, views.")] = 0,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the images.")] = 60,
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda, ...; auto takes a usable GPU.")
    ] = "auto",
    speed: Annotated[bool, typer.Option(help="Compare speed as well.")] = True,
) -> None:
    """Train a small VICReg encoder on real digits, then measure what it learned without labels.

    Shows the loss terms, CDNV and NCC before and after training, for the ten digits, for a coarser
    grouping of them by shape, and for random labels; then speed and error beside the official
    formula and scikit-learn. Under a minute and a half on two cores; nothing is downloaded.

    [bold]Examples[/bold]

      sslkernels demo

      sslkernels demo --seed 1 --epochs 100 --out long --no-speed
    """
    with one_line_errors(), staged(out_dir) as stage:
        where, note = devices.choose(device)
        if note:
            err.print(note)
        on_train, on_test = digits.load(seed, where)
        out.print(
            f"VICReg on {len(on_train):,} handwritten digits, without labels, {epochs} epochs, "
            f"{escape(devices.name(where))}; {len(on_test)} images held out."
        )
        model = build(seed, where)
        calibrate(model, on_train.images, seed)
        before = snapshot(model, on_train, on_test)
        start = time.perf_counter()
        with progress(TextColumn("loss {task.fields[loss]:.2f}")) as bars:
            task = bars.add_task("Training", total=epochs, loss=float("nan"))
            history = train(
                model,
                on_train.images,
                epochs=epochs,
                seed=seed,
                on_epoch=lambda values: bars.update(task, advance=1, loss=values[0]),
            )
        seconds = time.perf_counter() - start
        after = snapshot(model, on_train, on_test)
        out.print(f"Trained in {seconds:.1f} s.\n")
        out.print(_terms(before.terms, after.terms))
        out.print(_geometry(before, after))
        shapes = ", ".join(
            f"{name} {' '.join(map(str, members))}" for name, members in digits.SHAPES.items()
        )
        out.print(
            f"[dim]Shapes: {shapes}; merged from the digits' moments.\n"
            "Random labels: chance is 10 %, a little more on the rows that made the centers.[/]\n"
        )
        comparisons = bench.run(Sizes(), where, 1.0) if speed else []
        if comparisons:
            out.print(tables.speed(comparisons, devices.name(where)))
        content = {
            "versions": versions(),
            "device": devices.name(where),
            "settings": {"seed": seed, "epochs": epochs},
            "shapes": digits.SHAPES,
            "before": before.as_json(),
            "after": after.as_json(),
            "history": {"columns": ["loss", *_WEIGHTS], "epochs": history},
            "training_seconds": seconds,
            "speed": [comparison.as_json() for comparison in comparisons],
        }
        write_json(stage / "demo.json", content)
        from sslkernels.cli.demo import figures  # matplotlib is slow to import
        from sslkernels.report import style

        style.save(figures.training(history, _WEIGHTS), stage / "training.png")
        test_digits = on_test.labels[0].cpu().numpy()
        picture = figures.before_after(before, after, test_digits)
        style.save(picture, stage / "before-after.png")
    names = "before-after.png, training.png, demo.json"
    out.print(f"Wrote {names} to [bold]{escape(str(Path(out_dir)))}[/]")


def _terms(before: dict[str, float], after: dict[str, float]) -> Table:
    rows = tables.table(
        "VICReg on views of held-out images", ["term"], ["weight", "before", "after"]
    )
    for name, weight in _WEIGHTS.items():
        cells = [number(moment[name]) for moment in (before, after)]
        rows.add_row(name, f"{weight:g}", *cells)
    rows.add_row("loss", "", *[number(moment["loss"]) for moment in (before, after)])
    return rows


def _geometry(before: Snapshot, after: Snapshot) -> Table:
    rows = tables.table(
        "Class geometry of the features",
        ["labels", "training"],
        ["CDNV train", "CDNV test", "NCC train", "NCC test"],
    )
    for pair in zip(before.geometry, after.geometry, strict=True):
        for moment, values in zip(("before", "after"), pair, strict=True):
            rows.add_row(
                f"{values.labeling} ({values.classes})" if moment == "before" else "",
                moment,
                f"{values.cdnv_train:.3g}",
                f"{values.cdnv_test:.3g}",
                f"{100 * values.ncc_train:.1f} %",
                f"{100 * values.ncc_test:.1f} %",
                style="" if moment == "before" else "bold",
                end_section=moment == "after",
            )
    return rows
