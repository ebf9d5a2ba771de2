"""The examples as their users run them, some steps long."""

import importlib.util
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = ["--steps", "3", "--batch", "32", "--width", "24"]

needs_lightly = pytest.mark.skipif(
    importlib.util.find_spec("lightly") is None,
    reason="lightly is not installed: pip install --no-deps lightly",
)


def run(*command: str) -> str:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def differences(output: str) -> list[float]:
    return [float(line.split()[-1]) for line in output.splitlines() if "e-" in line or "e+" in line]


@needs_lightly
def test_curves_lie_on_each_other(tmp_path):
    output = run("examples/train_digits.py", *TINY, "--figure", str(tmp_path / "new" / "x.png"))
    got = differences(output)
    assert len(got) == 3 and max(got) < 1e-5
    assert (tmp_path / "new" / "x.png").stat().st_size > 10_000


@pytest.mark.parametrize("loss", ["official", "sslkernels"])
def test_one_loss(loss):
    assert differences(run("examples/train_digits.py", *TINY, "--loss", loss)) == [0.0]


@needs_lightly
def test_ranks_equal_one_process():
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    got = differences(run(*launch, "examples/train_digits_ddp.py", *TINY))
    assert len(got) == 2 and max(got) < 1e-5


def test_a_monitored_training(tmp_path):
    rows = tmp_path / "rows.jsonl"
    said = run("examples/monitor_digits.py", "--epochs", "1", "--every", "1", "--out", str(rows))
    assert "epoch 1: held-out NCC by digit" in said and "measuring" in said
    assert rows.read_text().count("\n") > 60


def test_images_in_folders_and_checkpoints(tmp_path):
    image = pytest.importorskip("PIL.Image")
    g = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog", "owl")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(9):
            pixels = g.integers(0, 100, (20, 24, 3)).astype(np.uint8)
            pixels[..., label] += 120
            image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    spec = importlib.util.spec_from_file_location("images", ROOT / "examples/monitor_images.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    torch.save(example.small().state_dict(), tmp_path / "a.pt")
    said = run(
        "examples/monitor_images.py", str(tmp_path / "images"), "--size", "16", "--checkpoints",
        str(tmp_path / "a.pt"), str(tmp_path / "a.pt"), "--out", str(tmp_path / "rows.jsonl"),
    )  # fmt: skip
    assert said.count("a.pt, 2: NCC by class 100.0 %") == 2


@pytest.mark.parametrize("kind", ["cifar-10", "cifar-100"])
def test_images_of_cifar(tmp_path, kind):
    g = np.random.default_rng(0)
    parts = ["data_batch_1", "data_batch_2"] if kind == "cifar-10" else ["train"]
    for part in parts:
        labels = [i % 4 for i in range(24)]
        batch = {b"data": g.integers(0, 256, (24, 3072)).astype(np.uint8)}
        if kind == "cifar-10":
            batch[b"labels"] = labels
        else:
            batch |= {b"fine_labels": labels, b"coarse_labels": [i // 2 for i in labels]}
        (tmp_path / part).write_bytes(pickle.dumps(batch))
    out = tmp_path / "rows.jsonl"
    said = run("examples/monitor_images.py", str(tmp_path), "--out", str(out))
    assert ("superclass" in said) is (kind == "cifar-100") and "as built, 2: NCC by class" in said


def test_the_examples_of_the_statistics_page():
    """In one namespace, and with the numbers that stand beside them."""
    page = (ROOT / "docs/statistics.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(compile(block, "docs/statistics.md", "exec"), names)
    scores, line = names["second"].compute()
    assert float(scores.leave_one_out) == pytest.approx(0.9835, abs=5e-5)
    assert float(line) == pytest.approx(0.02945, abs=5e-6)


def test_the_examples_of_the_monitors_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/monitor.md").read_text(), re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        if block.startswith(">>>"):
            kept = [line[4:] for line in block.splitlines() if line[:4] in (">>> ", "... ")]
            block = "\n".join(kept)
        exec(compile(block, "docs/monitor.md", "exec"), {})
