"""What can be in the way of a report: all of its files are written, or none, and none is lost."""

import os
from pathlib import Path

import pytest

from sslkernels.cli import main
from sslkernels.report import figures, style
from sslkernels.report.files import OutputError, staged

ARGS = ["report", "train.npy", "--labels", "train_fine.npy", "--out", "out"]
FILES = ["report.csv", "report.html", "report.json", "report.png"]


def contents(folder):
    found = sorted(path for path in folder.rglob("*"))
    return {path: path.read_bytes() if path.is_file() else None for path in found}


@pytest.mark.parametrize("name", FILES)
def test_a_folder_by_the_name_of_a_file(command, data, tmp_path, name):
    (tmp_path / "out" / name / "kept").mkdir(parents=True)
    before = contents(tmp_path / "out")
    code, out, err = command(*ARGS)
    assert (code, out) == (2, "")
    assert f"out/{name}: is a folder" in err and len(err.splitlines()) == 1
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("there", [FILES, ["report.csv"], []])
def test_a_file_that_cannot_be_replaced(tmp_path, monkeypatch, name, there):
    out = tmp_path / "out"
    out.mkdir()
    for file in there:
        (out / file).write_text(f"old {file}")
    before, replace = contents(out), os.replace

    def refuse(source, target):
        if os.path.basename(target) == name and Path(source).read_text() == "new":
            raise PermissionError(1, "Operation not permitted")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    words = "out: cannot be written: Operation not permitted"
    with pytest.raises(OutputError, match=words), staged(out) as stage:
        for file in FILES:
            (stage / file).write_text("new")
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_links_are_replaced_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "report.json").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "report.csv").symlink_to(tmp_path / "nothing")
    with staged(tmp_path / "out") as stage:
        for file in FILES:
            (stage / file).write_text("new")
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == dict.fromkeys(
        FILES, "new"
    )
    assert not any((tmp_path / "elsewhere").iterdir())


FAILURES = {
    "no room": (OSError(28, "No space left on device"), 2),
    "a bug": (ValueError("a font\nthat is broken"), ValueError),
    "no memory": (MemoryError(), MemoryError),
}


@pytest.mark.parametrize("step", [(figures, "report"), (style, "save")])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_figure_that_fails_costs_no_number(
    command, data, tmp_path, monkeypatch, capsys, step, failure
):
    error, status = FAILURES[failure]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/report.png").write_text("of other numbers")

    def fail(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(*step, fail)
        if status == 2:
            code, _, err = command(*ARGS, "--checkpoint", "c")
            assert code == 2
        else:
            with pytest.raises(status):
                main([*ARGS, "--checkpoint", "c"])
            err = capsys.readouterr().err
    assert "out/report.png: cannot be" in err and len(err.splitlines()) == 1
    assert "report.html, .json and .csv are written" in err
    found = contents(tmp_path / "out")
    assert [path.name for path in found] == FILES[:3]
    assert command(*ARGS, "--checkpoint", "c")[0] == 0  # from the checkpoint, which was kept
    numbers = {path: data for path, data in found.items() if path.suffix != ".html"}
    assert contents(tmp_path / "out").items() > numbers.items()  # the page has its picture now
