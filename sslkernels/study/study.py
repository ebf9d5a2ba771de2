"""All runs of a study, one after another, and the report."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sslkernels._files import replaced
from sslkernels.report.files import dumps, versions
from sslkernels.study import digits
from sslkernels.study.findings import Finding
from sslkernels.study.records import Folder
from sslkernels.study.report import keep_plane, write
from sslkernels.study.run import VIEWS, Data, Run, data, finish
from sslkernels.study.settings import StudySettings

_PICTURED = 10  # samples whose views figure (e) shows

OnEpoch = Callable[[int, str, int], None]  # seed, method, epochs done


def make(
    out: str | os.PathLike[str],
    settings: StudySettings | None = None,
    *,
    resume: bool = False,
    train: bool = True,
    device: torch.device | str = "cpu",
    on_epoch: OnEpoch = lambda *_: None,
    command: str = "sslkernels study",
) -> list[Finding]:
    """Train, measure and report.

    Args:
        out: the folder; it is made. ``report.html``, ``study.csv``, ``study.json``, the figures,
            and what each run has recorded.
        settings: what is trained; those in the folder when resuming, by default.
        resume: go on with the study in the folder: complete runs stay, others are made.
        train: False makes the report from what the folder holds, however much that is.
        device: where it is trained and measured.
        on_epoch: told of progress.
        command: how the study was asked for; the page says it.

    Returns:
        The findings, as the page shows them.

    Raises:
        ValueError: the folder holds a study and ``resume`` was not asked for, or one with other
            settings; or it holds none, and there is nothing to report.
    """
    folder = Folder(Path(out))
    known = folder.settings()
    if known is None and not train:
        raise ValueError(f"{folder.path}: holds no study to report")
    if known is not None:
        if train and not resume:
            raise ValueError(f"{folder.path}: holds a study already; resume it, or name another")
        before = StudySettings.from_dict(known)
        if settings is not None and settings != before:
            changed = [k for k, v in before.as_dict().items() if settings.as_dict()[k] != v]
            raise ValueError(
                f"{folder.path}: holds a study with other settings ({', '.join(changed)}); "
                "resume without them"
            )
        settings = before
    settings = settings or StudySettings()
    if train:
        folder.runs.mkdir(parents=True, exist_ok=True)
        if known is None:
            with replaced(folder.path / "study.json") as file:
                file.write(dumps({"settings": settings.as_dict(), "versions": versions()}) + "\n")
        _train(folder, settings, torch.device(device), on_epoch)
    return write(folder, settings, command)


def _train(
    folder: Folder, settings: StudySettings, device: torch.device, on_epoch: OnEpoch
) -> None:
    drawn: dict[int, Data] = {}
    for seed, method in settings.runs():
        if folder.done(seed, method) is not None:
            on_epoch(seed, method, settings.epochs)
            continue
        if seed not in drawn:
            drawn = {seed: data(settings, seed, device)}
        given = drawn[seed]
        # The rows of an interrupted run are measured again, to the same numbers.
        run = Run(settings, seed, method, given, folder.rows_of(seed, method))
        pictured = (seed, method) == settings.runs()[0]
        plane = folder.runs / "plane.npz"
        if pictured:
            plane.unlink(missing_ok=True)
            keep_plane(plane, "before", _encodings(run))
        run.train(partial(on_epoch, seed, method))
        if pictured:
            keep_plane(plane, "after", _encodings(run))
        content: dict[str, Any] = {
            "training_seconds": run.training_seconds,
            "measuring_seconds": run.measuring_seconds,
            "agreement": given.agreement,
        }
        finish(folder.mark_of(seed, method), content)


@torch.no_grad()
def _encodings(run: Run) -> dict[str, np.ndarray]:
    """Encodings of held-out images and of views of a few images, with their classes."""
    images, labels = run.data.test
    views, samples = run.data.views
    few = samples["sample"] < _PICTURED
    assert int(few.sum()) == _PICTURED * VIEWS
    training = run.encoder.training
    run.encoder.eval()
    parents = torch.tensor(digits.PARENTS, device=images.device)
    found = {
        "images": run.encoder.backbone(images),
        "digit": labels["digit"],
        "shape": parents[labels["digit"]],
        "views": run.encoder.backbone(views[few]),
        "sample": samples["sample"][few],
    }
    run.encoder.train(training)
    return {key: value.cpu().numpy() for key, value in found.items()}
