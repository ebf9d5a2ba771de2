"""Names that no encoding, no font and no typesetting likes: the numbers are written, and drawn."""

import csv
import json
import os

import numpy as np
import pytest

import sslkernels as ssk
from sslkernels.report import figures, style

NAMES = {
    "unclosed mathematics": r"a$\frac{$",
    "broken mathematics": r"$\frac{$",
    "escaped mathematics": r"a\$b$c\$",
    "superscripts": "a^b_{c",
    "not UTF-8": os.fsdecode(b"caf\xe9"),
    "a lone surrogate": "\ud800x",
    "hidden from legends": "_hidden",
    "markup of the terminal": "[red]a",
    "an open tag": "[link=x]a",
    "an escape sequence": "\x1b[31mred",
    "line ends": "a\nb\rc",
    "no font has it": "\U0001f996\u6c34",
    "right to left": "\u202egnp",
    "quotes": "a\"b'c",
    "a formula": "=1+1,2",
    "long": "n" * 200,
    "spaces": "   ",
    "a percent sign": "100%s{}",
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
def test_files_by_these_names(command, data, tmp_path, name):
    name = NAMES[name]
    try:
        np.save(tmp_path / f"{name}.npy", data["train"])
        os.rename("train_fine.npy", f"{name}.y.npy")
    except (OSError, UnicodeEncodeError):
        pytest.skip("the file system has no such names")
    args = ["report", f"{name}.npy", "train.npy", "--labels", f"{name}.y.npy"]
    code, _, err = command(*args, "--out", f"{name}.out", "--checkpoint", f"{name}.c")
    assert (code, err) == (0, "")
    folder = tmp_path / f"{name}.out"
    found = json.loads((folder / "report.json").read_text("utf-8"))
    assert [each["name"] for each in found["embeddings"]] == [name, "train"]
    assert found["embeddings"][0]["inputs"]["train"]["path"] == f"{name}.npy"
    assert found["embeddings"][0]["labelings"] == found["embeddings"][1]["labelings"]
    with open(folder / "report.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found["rows"])
    assert {float(row["value"]) for row in rows if row["statistic"] == "cdnv"} == {
        found["embeddings"][0]["labelings"][0]["cdnv"]
    }
    assert (folder / "report.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", NAMES)
def test_one_labeling_by_these_names(tmp_path, name):
    name = NAMES[name]
    labels = np.arange(60) % 3
    z = np.random.default_rng(0).normal(size=(60, 4))
    result = ssk.evaluate(z, {name: labels}, cdnv_matrix=True)
    style.save(figures.report(result), tmp_path / "a.png")
    result.to_csv(tmp_path / "a.csv")
    result.to_json(tmp_path / "a.json")
    rows = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert name in {row["labeling"] for row in rows}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_wrong_is_said_in_one_line(command, data, tmp_path, name):
    try:
        (tmp_path / f"{NAMES[name]}.npy").write_bytes(b"nothing")
    except (OSError, UnicodeEncodeError):
        pytest.skip("the file system has no such names")
    code, out, err = command("report", f"{NAMES[name]}.npy", "--labels", "train_fine.npy")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and err[:-1].isprintable()


def test_a_name_that_is_named(tmp_path):
    """Names that are escaped in messages stay what they are in results."""
    result = ssk.evaluate({"\ud800": np.eye(4)}, {"\udcff": np.array([0, 0, 1, 1])})
    assert result["\ud800"]["\udcff"].num_classes == 2
