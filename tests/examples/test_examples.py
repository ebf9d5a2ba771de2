"""The examples as their users run them, some steps long."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
