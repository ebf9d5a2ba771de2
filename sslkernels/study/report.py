"""The page, the tables and the figures of a study, from what its runs have recorded."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sslkernels._files import replaced
from sslkernels.report import page
from sslkernels.report.files import dumps, versions
from sslkernels.study import figures
from sslkernels.study.findings import NOT, REPRODUCED, Finding, findings
from sslkernels.study.methods import ABLATIONS, NAMES
from sslkernels.study.panels import Plot
from sslkernels.study.records import Folder, Table, write_csv
from sslkernels.study.settings import StudySettings

TITLE = "What do embeddings cluster by?"


def plots(
    table: Table,
    settings: StudySettings,
    done: Mapping[tuple[int, str], Mapping[str, Any]],
    pictured: Mapping[str, Any] | None,
) -> list[Plot]:
    """The figures that the rows at hand can be drawn of."""
    watched = [m for m in settings.methods if table.seeds(m)]
    learned = [m for m in watched if m != "supervised"]
    agreement = _agreement(done)
    graded = list(agreement)
    found: list[Plot] = [figures.over_training(table, m) for m in learned]
    if graded:
        found += [figures.graded_targets(table, m, graded, agreement) for m in learned]
    if watched:
        found.append(figures.layers(table, watched, graded))
    if all(table.seeds(m) for m in ("vicreg", *ABLATIONS)):
        found.append(figures.ablation(table))
    if pictured and learned:
        found.append(figures.plane(pictured, learned[0]))
    if watched:
        ablated = [m for m in ABLATIONS if table.seeds(m)]
        found.append(figures.collapse(table, [*watched, *ablated]))
    return sorted(found, key=lambda plot: plot.key[0])  # by letter, methods in their order


def _agreement(done: Mapping[tuple[int, str], Mapping[str, Any]]) -> dict[str, float]:
    """Mean over seeds of each graded target's agreement with the digits, ascending."""
    shares: dict[str, list[float]] = {}
    for run in done.values():
        for name, share in run.get("agreement", {}).items():
            shares.setdefault(name, []).append(share)
    means = {name: float(np.mean(values)) for name, values in shares.items()}
    stages = sorted((n for n in means if n.startswith("stage")), key=lambda n: int(n.split()[1]))
    return {name: means[name] for name in ("random", *stages, "digit") if name in means}


def write(folder: Folder, settings: StudySettings, command: str) -> list[Finding]:
    """``study.csv``, ``study.json``, the figures and ``report.html``: numbers before pictures."""
    rows = folder.rows(settings)
    done = {run: content for run in settings.runs() if (content := folder.done(*run)) is not None}
    table = Table(rows)
    learned = [m for m in settings.methods if m != "supervised" and table.seeds(m)]
    graded = {seed: run["agreement"] for (seed, _), run in done.items() if "agreement" in run}
    verdicts = findings(table, learned, graded)
    write_csv(folder.path / "study.csv", rows)
    seconds = {
        "training": sum(run["training_seconds"] for run in done.values()),
        "measuring": sum(run["measuring_seconds"] for run in done.values()),
    }
    content = {
        "settings": settings.as_dict(),
        "versions": versions(),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
        },
        "command": command,
        "complete_runs": [list(run) for run in done],
        "planned_runs": [list(run) for run in settings.runs()],
        "seconds": seconds,
        "agreement": {str(seed): shares for seed, shares in graded.items()},
        "findings": [vars(finding) for finding in verdicts],
    }
    with replaced(folder.path / "study.json") as file:
        file.write(dumps(content) + "\n")
    drawn = plots(table, settings, done, _pictured(folder))
    for plot in drawn:
        plot.save(folder.path / f"{plot.key}.png")
    with replaced(folder.path / "report.html") as file:
        file.write(_page(settings, content, verdicts, drawn))
    return verdicts


def _pictured(folder: Folder) -> dict[str, dict[str, np.ndarray]] | None:
    path = folder.runs / "plane.npz"
    if not path.exists():
        return None
    with np.load(path) as arrays:
        found: dict[str, dict[str, np.ndarray]] = {}
        for name in arrays.files:
            moment, key = name.split("/")
            found.setdefault(moment, {})[key] = arrays[name]
    return found if set(found) == {"before", "after"} else None


def keep_plane(path: Path, moment: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Add the rows of one moment to the file that figure (e) is drawn from."""
    arrays = {f"{moment}/{key}": value for key, value in arrays.items()}
    before: dict[str, np.ndarray] = {}
    if path.exists():
        with np.load(path) as kept:
            before = {name: kept[name] for name in kept.files}
    with replaced(path, "wb") as file:
        np.savez(file, **before, **arrays)  # type: ignore[arg-type]


def _page(
    settings: StudySettings,
    content: Mapping[str, Any],
    verdicts: Sequence[Finding],
    drawn: Sequence[Plot],
) -> str:
    done, planned = len(content["complete_runs"]), len(content["planned_runs"])
    names = ", ".join(NAMES[m] for m in settings.methods)
    body = [
        f"<h1>{page.text(TITLE)}</h1>",
        page.paragraph(
            f"{names}, trained on scikit-learn's 1,797 handwritten digits from "
            f"{settings.seeds} seed{'s' if settings.seeds > 1 else ''}, {settings.epochs} epochs "
            "each, and watched while they train: after the questions of Ben-Shaul, Shwartz-Ziv, "
            "Galanti, Dekel and LeCun, “Reverse Engineering Self-Supervised Learning” (NeurIPS "
            "2023, arXiv 2305.15614)."
        ),
    ]
    if done < planned:
        body.append(
            page.paragraph(f"Incomplete: {done} of {planned} runs have ended; the rest is missing.")
        )
    links = [("findings", "Findings"), *((p.key, p.title.split(":")[0]) for p in drawn)]
    links.append(("how", "How it was made"))
    body.append(
        "<nav>"
        + " ".join(f'<a href="#{a}">{page.text(words)}</a>' for a, words in links)
        + "</nav>"
    )
    body += [
        page.heading("Findings of the paper, and what these runs show", "findings"),
        page.paragraph(
            "A finding counts as reproduced when its effect has the claimed sign in every seed and "
            "its mean is more than two standard errors from zero. The networks, the data and the "
            "way targets are graded are this study's own; the paper's are not known in full.",
            quiet=True,
        ),
        page.table(
            ("finding", "criterion", "these runs", "verdict"),
            [(f.claim, f.criterion, f.shown, f.verdict) for f in verdicts],
            classes=[{REPRODUCED: "good", NOT: "bad"}.get(f.verdict, "quiet") for f in verdicts],
            stacked=True,
        ),
    ]
    for plot in drawn:
        titles = [panel.title for panel in plot.panels]
        body += [
            page.heading(plot.title, plot.key),
            page.paragraph(plot.caption),
            page.pictures(plot.pictures(dark=False), plot.pictures(dark=True), titles),
        ]
        if plot.rows:
            body.append(page.folded("The numbers", page.table(plot.columns, plot.rows)))
    share = content["seconds"]["measuring"] / max(content["seconds"]["training"], 1e-9)
    facts = [
        *((key.replace("_", " "), value) for key, value in settings.as_dict().items()),
        *content["versions"].items(),
        ("system", content["machine"]["system"]),
        ("threads", content["machine"]["threads"]),
        ("training", f"{content['seconds']['training']:.0f} s"),
        ("measuring", f"{content['seconds']['measuring']:.0f} s, {100 * share:.0f} % of training"),
    ]
    body += [
        page.heading("How it was made", "how"),
        page.paragraph(
            "A convolutional encoder of three blocks, a 128-wide encoding, and an expander to the "
            "512-wide embedding that the loss sees. 1,297 images train, 500 are held out; class "
            "means are those of the training images. Superclasses group the digits by the shape "
            "of their strokes. At the sample level a class is 10 views of one of 100 images, and 4 "
            "more views of each are held out. All numbers are in study.csv, settings and versions "
            "in study.json."
        ),
        page.code(content["command"]),
        page.table(("setting", "value"), [(key, _shown(value)) for key, value in facts]),
    ]
    return page.page(TITLE, body)


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
