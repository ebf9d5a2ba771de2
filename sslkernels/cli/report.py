"""``sslkernels report``: class geometry of embeddings in files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.markup import escape

from sslkernels.cli import devices
from sslkernels.cli.console import OptionError, err, one_line_errors, out, progress
from sslkernels.data import DataError, NpyFile, open_embeddings, read_labels
from sslkernels.report import tables
from sslkernels.report.files import staged, versions, write_json
from sslkernels.report.measure import Labeling, Result, measure

_NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)
_UNNAMED = "labels"
_STAGES = {"moments": "Class moments", "train": "NCC on train", "test": "NCC on test"}


def report(
    train: Annotated[
        str,
        typer.Argument(
            metavar="TRAIN.npy",
            help="Embeddings [N, D], float16, float32 or float64; they give the class centers.",
            show_default=False,
        ),
    ],
    labels: Annotated[
        list[str],
        typer.Option(
            "--labels",
            metavar="[NAME=]FILE.npy",
            help="Integer class labels [N] of TRAIN.npy. Repeat for more labelings, each with a "
            "name: all are measured in one reading.",
            show_default=False,
        ),
    ],
    test: Annotated[
        str | None,
        typer.Option(
            "--test",
            metavar="TEST.npy",
            help="Embeddings to classify with the centers of TRAIN.npy.",
            show_default=False,
        ),
    ] = None,
    test_labels: Annotated[
        list[str] | None,
        typer.Option(
            "--test-labels",
            metavar="[NAME=]FILE.npy",
            help="Labels of TEST.npy for the labeling of that name. Repeatable.",
            show_default=False,
        ),
    ] = None,
    out_dir: Annotated[
        str, typer.Option("--out", metavar="DIR", help="Folder for report.json and report.png.")
    ] = "report",
    ignore_label: Annotated[
        int, typer.Option("--ignore-label", help="Rows with this label are skipped.")
    ] = -100,
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
    """Measure the class geometry of embeddings: CDNV and NCC under one or more labelings.

    CDNV (class-distance normalized variance) is the within-class variance over the squared distance
    between class means, averaged over pairs of classes: 0 for collapsed classes. NCC is the share
    of rows whose nearest class center is that of their label.

    The files are memory-mapped and streamed, so they may be larger than memory. Prints a table;
    writes DIR/report.json and DIR/report.png.

    [bold]Examples[/bold]

      sslkernels report train.npy --labels y.npy

      sslkernels report train.npy --labels fine=y.npy --labels coarse=y20.npy
      --test test.npy --test-labels fine=y_test.npy --out resnet50
    """
    with one_line_errors():
        where, note = devices.choose(device)
        if note:
            err.print(note)
        train_file = open_embeddings(train)
        test_file = _open_test(test, test_labels, train_file)
        train_paths = _named("--labels", labels)
        test_paths = _match(_named("--test-labels", test_labels or []), list(train_paths))
        labelings = [
            _labeling(name, path, test_paths.get(name), train_file, test_file, ignore_label)
            for name, path in train_paths.items()
        ]
        _check_memory(labelings, train_paths, train_file.shape[1])
        rows = chunk_rows or max(1, (chunk_mb << 20) // train_file.row_bytes)
        with staged(out_dir) as stage:
            results = _measure(train_file, labelings, test_file, rows, ignore_label, where)
            inputs = {"train": _described(train_file)}
            if test_file is not None:
                inputs["test"] = _described(test_file)
            content = {
                "versions": versions(),
                "inputs": inputs,
                "settings": {
                    "chunk_rows": rows,
                    "ignore_label": ignore_label,
                    "device": where.type,
                    "ncc_precision": "exact",
                    "cdnv_convention": "galanti",
                },
                "labelings": [
                    {
                        "name": result.name,
                        "train_labels": train_paths[result.name],
                        "test_labels": test_paths.get(result.name),
                        **tables.as_json(result),
                    }
                    for result in results
                ],
            }
            write_json(stage / "report.json", content)
            from sslkernels.report import figures, style  # matplotlib is slow to import

            style.save(figures.report(results), stage / "report.png")
        out.print(tables.report(results))
        _warn(results)
        folder = Path(out_dir)
        out.print(f"Wrote {escape(str(folder / 'report.json'))} and report.png")


def _open_test(test: str | None, test_labels: list[str] | None, train: NpyFile) -> NpyFile | None:
    if test is None:
        if test_labels:
            raise OptionError("--test-labels: needs --test TEST.npy, the embeddings they label")
        return None
    if not test_labels:
        raise OptionError("--test: needs --test-labels FILE.npy, the labels of its rows")
    file = open_embeddings(test)
    if file.shape[1] != train.shape[1]:
        raise DataError(
            f"{file.path}: {file.shape[1]} columns, but {train.path} has {train.shape[1]}"
        )
    return file


def _named(option: str, values: list[str]) -> dict[str, str]:
    """``{name: path}`` of ``[NAME=]FILE`` values; the name of an existing file may hold "="."""
    paths: dict[str, str] = {}
    for value in values:
        match = None if os.path.exists(value) else _NAMED.fullmatch(value)
        name, path = match.groups() if match else (_UNNAMED, value)
        if name in paths:
            raise OptionError(
                f"{option}: the name {name!r} is given twice; write {option} NAME={path}"
            )
        paths[name] = path
    return paths


def _match(test_paths: dict[str, str], names: list[str]) -> dict[str, str]:
    """Test labels under the names of the training labels; one unnamed file fits the only name."""
    if list(test_paths) == [_UNNAMED] and len(names) == 1:
        return {names[0]: test_paths[_UNNAMED]}
    for name, path in test_paths.items():
        if name not in names:
            given = ", ".join(names)
            raise OptionError(f"--test-labels {path}: no labeling {name!r}; --labels gives {given}")
    return test_paths


def _labeling(
    name: str,
    path: str,
    test_path: str | None,
    train: NpyFile,
    test: NpyFile | None,
    ignore: int,
) -> Labeling:
    on_train = read_labels(path, train.shape[0], train.path, ignore)
    on_test = None
    if test_path is not None and test is not None:
        on_test = read_labels(test_path, test.shape[0], test.path, ignore)
    used = on_train[on_train != ignore]
    if not len(used):
        raise DataError(f"{path}: every label is {ignore}: nothing to measure")
    largest = int(used.max())
    if on_test is not None:
        largest = int(on_test[on_test != ignore].max(initial=largest))
    return Labeling(name, 1 + largest, on_train, on_test)


def _check_memory(labelings: list[Labeling], paths: dict[str, str], dim: int) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for labels in labelings:
        needed = labels.num_classes * dim * 8
        if needed > memory // 4:
            raise DataError(
                f"{paths[labels.name]}: labels up to {labels.num_classes - 1} make "
                f"{labels.num_classes} class means of {needed / 2**30:.0f} GiB; "
                "number the classes 0, 1, 2, ..."
            )


def _measure(
    train: NpyFile,
    labelings: list[Labeling],
    test: NpyFile | None,
    rows: int,
    ignore: int,
    device: torch.device,
) -> list[Result]:
    totals = {"moments": train.shape[0], "train": train.shape[0]}
    if test is not None:
        totals["test"] = test.shape[0]
    with progress() as bars:
        tasks = {
            stage: bars.add_task(f"{_STAGES[stage]:<14}", total=total)
            for stage, total in totals.items()
        }
        return measure(
            train,
            labelings,
            test,
            chunk_rows=rows,
            ignore=ignore,
            device=device,
            on_rows=lambda stage, done: bars.advance(tasks[stage], done),
        )


def _described(file: NpyFile) -> dict[str, object]:
    return {"path": file.path, "shape": list(file.shape), "dtype": file.dtype.name}


def _warn(results: list[Result]) -> None:
    for result in results:
        poisoned = int((np.isnan(result.variances) & (result.train.counts > 0)).sum())
        if poisoned:
            err.print(
                f"[yellow]warning:[/] {result.name}: {poisoned} of {result.filled} classes hold a "
                "row with NaN or infinity and have no center; CDNV is undefined"
            )
