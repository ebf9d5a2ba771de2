"""One row of the table of statistics is all that a new number takes to be seen everywhere."""

import csv
import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console

import sslkernels as ssk
from sslkernels.evaluation import scalars
from sslkernels.evaluation.checkpoint import Checkpoint
from sslkernels.evaluation.result import packed, unpacked
from sslkernels.monitor import EmbeddingMonitor
from sslkernels.report import content, document, geometry

LABELS = torch.arange(60) % 3
Z = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) + LABELS[:, None]
NEW = "widest"


def widest(x):
    """The largest variance of a class."""
    return x.moments.variances.max()


@pytest.fixture
def row(monkeypatch):
    """A statistic that the library does not have, of class moments."""
    new = scalars.Statistic(
        NEW, "train", widest, "Widest\nclass", scalars.number, scalars.GEOMETRY, scalars.BOTH
    )
    monkeypatch.setattr(scalars, "OF_LABELING", (*scalars.OF_LABELING, new))


@pytest.fixture
def result(row):
    return ssk.evaluate(Z, {"fine": LABELS})


WANT = ssk.class_moments(Z, LABELS, 3).variances.max().item()


def test_as_an_attribute_and_in_the_rows(result):
    assert result["fine"].widest == WANT
    found = [row for row in result.rows() if row["statistic"] == NEW]
    assert found == [
        {
            "embeddings": "",
            "labeling": "fine",
            "split": "train",
            "statistic": NEW,
            "value": WANT,
        }
    ]
    assert NEW in dir(result["fine"]) and not hasattr(result["fine"], "widester")


def test_in_the_files(result, tmp_path):
    result.to_csv(tmp_path / "r.csv")
    with open(tmp_path / "r.csv", newline="") as file:
        values = {row["statistic"]: row["value"] for row in csv.DictReader(file)}
    assert float(values[NEW]) == WANT
    result.to_json(tmp_path / "r.json")
    assert WANT in [row["value"] for row in json.loads((tmp_path / "r.json").read_text())]
    files = {"labels": {}, "classifiers": {}, "embeddings": {"": {}}}
    (embeddings,) = content.report(result, files)["embeddings"]
    assert embeddings["labelings"][0][NEW] == WANT


def test_on_terminals_pages_and_in_notebooks(result):
    said = io.StringIO()
    console = Console(file=said, width=100)
    for table in geometry.report(result):
        console.print(table)
    shown = scalars.number(WANT)
    assert "Widest" in said.getvalue() and shown in said.getvalue()
    page = document.document(result, {"embeddings": {"": {}}}, None)
    assert "Widest" in page and shown in page
    assert "Widest class" in result._repr_html_() and shown in result._repr_html_()


def test_in_a_monitor(row):
    monitor = EmbeddingMonitor(torch.nn.Identity(), [""], (Z, LABELS), test=(Z[:30], LABELS[:30]))
    monitor.measure(0)
    assert monitor.value(NEW, labeling="labels") == pytest.approx(WANT, rel=1e-6)
    on_test = ssk.class_moments(Z[:30], LABELS[:30], 3).variances.max().item()
    assert monitor.value(NEW, labeling="labels", split="test") == pytest.approx(on_test, rel=1e-6)


def test_in_checkpoints(result, tmp_path):
    kept = Checkpoint(tmp_path / "c", {}, 0.0)
    kept.finish("", result.embeddings[""])
    again = Checkpoint(tmp_path / "c", {}, 0.0).result("")
    assert again["fine"].values == result["fine"].values
    assert unpacked(json.loads(json.dumps(packed((1, "a"))))) == (1, "a")


def test_a_number_that_was_not_measured_is_none_and_has_no_column(monkeypatch):
    lean = ssk.evaluate(Z, LABELS, directional=False, spectrum=False, uniformity_rows=0)
    assert lean["labels"].directional_cdnv is None and lean["labels"].nc3 is None
    assert lean.embeddings[""].uniformity is None and lean.embeddings[""].rankme is None
    columns = scalars.columns(scalars.OF_LABELING, [lean["labels"]])
    assert "directional" not in columns and "NC3" not in columns and "NC1" in columns


def test_of_a_family_the_first_and_the_last_have_a_column():
    of = ssk.evaluate(Z, LABELS, top_k=(1, 2, 3))["labels"]
    columns = scalars.columns(scalars.OF_LABELING, [of])
    assert [head for head in columns if "top" in head] == ["train\ntop-1", "train\ntop-3"]
    assert columns["train\ntop-3"](of) == "100.00 %"


def test_names_are_declared_once():
    for table in (scalars.OF_EMBEDDINGS, scalars.OF_LABELING):
        keys = [(each.split, each.name) for each in table]
        assert len(keys) == len(set(keys))
        assert all(each.heading or not each.table for each in table)


def test_cells():
    assert [scalars.number(v) for v in (math.nan, 0.0, 0.07161, 12345.0, 1e-9)] == [
        "–",
        "0",
        "0.07161",
        "1.234e+04",
        "1.000e-09",
    ]
    assert scalars.percent(np.float64(0.5)) == "50.00 %" and scalars.percent(math.nan) == "–"
