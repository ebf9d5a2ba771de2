"""A tiny study, interrupted and resumed, and its page in a browser."""

import csv
import json
import os
import re
import shutil
import subprocess

import pytest
import torch

from sslkernels.cli.app import run as command
from sslkernels.study import StudySettings, figures, make
from sslkernels.study import study as runs

pytestmark = pytest.mark.slow

TINY = StudySettings(methods=("vicreg",), seeds=1, epochs=2, measurements=2, stages=(0, 3))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a study that was interrupted in its third run and resumed."""
    out = tmp_path_factory.mktemp("study") / "x"
    train, planes, threads = runs.Run.train, figures.projections, torch.get_num_threads()
    torch.set_num_threads(1)
    figures.projections = lambda: {"PCA": planes()["PCA"]}  # t-SNE takes seconds a picture

    def interrupted(self, on_epoch):
        if self.method == "regularization-only":
            train(self, lambda epoch: (_ for _ in ()).throw(KeyboardInterrupt))
        train(self, on_epoch)

    runs.Run.train = interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            make(out, TINY)
    finally:
        runs.Run.train = train
    assert len(list((out / "runs").glob("*.json"))) == 2
    partial = make(out, train=False)  # a report of what is there
    assert "Incomplete: 2 of 3 runs" in (out / "report.html").read_text()
    assert any("not testable" in finding.verdict for finding in partial)
    before = {path.name: path.read_bytes() for path in (out / "runs").glob("0-vicreg*")}
    try:
        make(out, resume=True)
    finally:
        figures.projections = planes
        torch.set_num_threads(threads)
    assert all((out / "runs" / name).read_bytes() == data for name, data in before.items())
    return out


def test_the_table_is_complete(finished):
    with open(finished / "study.csv") as file:
        rows = list(csv.DictReader(file))
    keys = [tuple(row.values())[:-1] for row in rows]
    assert len(set(keys)) == len(keys)
    by_method = {m: [r for r in rows if r["method"] == m] for m in {r["method"] for r in rows}}
    assert set(by_method) == {"vicreg", "invariance-only", "regularization-only"}
    sizes = {len(found) for found in by_method.values()}
    assert len(sizes) == 1  # every method is watched alike, the resumed one too
    assert {row["labeling"] for row in rows} == {
        "", "digit", "random", "shape", "sample", "stage 0", "stage 3"
    }  # fmt: skip
    content = json.loads((finished / "study.json").read_text())
    assert content["settings"] == TINY.as_dict()
    assert len(content["complete_runs"]) == len(content["planned_runs"]) == 3
    assert all(finding["verdict"] for finding in content["findings"])


def test_a_study_is_not_overwritten(finished):
    with pytest.raises(ValueError, match="holds a study already; resume it"):
        make(finished, TINY)
    with pytest.raises(ValueError, match=r"other settings \(epochs\)"):
        make(finished, StudySettings(**{**TINY.__dict__, "epochs": 3}), resume=True)
    with pytest.raises(ValueError, match="holds no study to report"):
        make(finished / "runs", train=False)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--methods", "moco"], "methods: expected some of"),
        (["--report-only", "--out", "nowhere"], "holds no study to report"),
        (["--out", "{file}"], "is not a folder"),
        (["--seeds", "0"], "seeds"),
    ],
)
def test_bad_options_are_one_line(args, message, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert command(["study", *(a.format(file="file") for a in args)]) == 2
    said = capfd.readouterr().err
    assert message in " ".join(said.split()) and "Traceback" not in said


def test_the_page_stands_alone(finished):
    page = (finished / "report.html").read_text()
    assert not re.search(r'(?:src|href|srcset)="(?!data:|#)', page) and "<script" not in page
    figures = {path.stem for path in finished.glob("*.png")}
    assert figures == {
        "a-training-vicreg", "b-targets-vicreg", "c-layers", "d-ablation", "e-plane", "f-collapse"
    }  # fmt: skip
    assert all(f'id="{name}"' in page for name in figures)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(finished, tmp_path, width, scheme):
    # A copy that writes what it has measured into its title: the page itself has no script. A frame
    # of the width asked for: headless Chromium's own window is 500 pixels wide at least.
    inner = tmp_path / "inner.html"
    shutil.copy(finished / "report.html", inner)
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<iframe id=f src="inner.html" style="width:{width}px;height:900px;border:0"></iframe>'
        "<script>addEventListener('load', () => { const d = document.getElementById('f')"
        ".contentDocument, i = [...d.images]; document.title = JSON.stringify({"
        "images: i.length, broken: i.filter(x => !x.naturalWidth).length,"
        "narrow: Math.min(...i.map(x => x.getBoundingClientRect().width)),"
        "wide: d.documentElement.scrollWidth,"
        "size: parseFloat(getComputedStyle(d.body).fontSize),"
        "back: getComputedStyle(d.body).backgroundColor}); });</script>"
    )
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", *dark,
            f"--window-size={max(width, 500) + 40},1000", f"file://{outer}",
        ],
        capture_output=True, text=True, timeout=120, env=os.environ | {"HOME": str(tmp_path)},
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stderr[-2000:]
    facts = json.loads(title[1].replace("&quot;", '"'))
    assert facts["images"] >= 18 and facts["broken"] == 0
    assert facts["wide"] <= width  # nothing sticks out sideways
    assert facts["narrow"] >= 280 and facts["size"] >= 15
    red = int(re.search(r"\d+", facts["back"])[0])
    assert red > 200 if scheme == "light" else red < 60
    assert "CONSOLE" not in done.stderr
