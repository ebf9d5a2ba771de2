"""`demo`, `bench`, `info`, and what all commands share."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import sslkernels as ssk
from sslkernels.report.speed import Sizes
from sslkernels.study import digits
from sslkernels.study.augment import Strength, augment

TINY = Sizes(vicreg=((16, 32), (32, 16)), rows=200, dim=8, classes=5)


@pytest.fixture
def one_thread():
    """Small layers on a busy machine: threads that wait for each other cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def numbers(value):
    if isinstance(value, dict):
        return [n for item in value.values() for n in numbers(item)]
    if isinstance(value, list):
        return [n for item in value for n in numbers(item)]
    return [value] if not isinstance(value, str) else []


def test_demo_writes_finite_numbers_and_pictures(command, tmp_path, monkeypatch, one_thread):
    monkeypatch.setattr("sslkernels.cli.demo.Sizes", lambda: TINY)
    code, out, err = command("demo", "--epochs", 2, "--out", "shown", "--device", "cpu")
    assert (code, err) == (0, "")
    assert out.rstrip().endswith("to shown")
    names = ["before-after.png", "demo.json", "training.png"]
    assert sorted(path.name for path in (tmp_path / "shown").iterdir()) == names
    result = json.loads((tmp_path / "shown/demo.json").read_text())
    assert all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers(result))
    for moment in ("before", "after"):
        assert [g["labeling"] for g in result[moment]["geometry"]] == ["digits", "shapes", "random"]
    assert len(result["history"]["epochs"]) == 2
    assert [c["work"] for c in result["speed"]] == ["VICReg step"] * 2 + ["Moments", "NCC"]


def test_demo_repeats_itself_and_follows_its_seed(command, tmp_path, one_thread):
    runs = {"a": 0, "b": 0, "c": 1}
    for out, seed in runs.items():
        args = ["--epochs", 1, "--no-speed", "--device", "cpu", "--seed", seed, "--out", out]
        assert command("demo", *args)[0] == 0
    a, b, c = (json.loads((tmp_path / out / "demo.json").read_text())["after"] for out in runs)
    assert a == b != c


def test_demo_learns_the_digits_without_labels(command, tmp_path, one_thread):
    assert command("demo", "--epochs", 6, "--no-speed", "--device", "cpu")[0] == 0
    result = json.loads((tmp_path / "demo-results/demo.json").read_text())
    before, after = (result[moment]["geometry"] for moment in ("before", "after"))
    assert after[0]["cdnv_test"] < 0.6 * before[0]["cdnv_test"]
    assert after[0]["ncc_test"] > before[0]["ncc_test"] + 0.03
    assert after[1]["cdnv_test"] < before[1]["cdnv_test"]
    assert after[2]["ncc_test"] < 0.2  # random labels stay near chance


def test_shapes_cover_every_digit_once():
    assert sorted(sum(digits.SHAPES.values(), ())) == list(range(10))
    assert digits.PARENTS[8] == 0 and digits.PARENTS[7] == 1 and digits.PARENTS[3] == 2


def test_augmentations_leave_the_image_alone_at_strength_zero():
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    none = Strength(0, 0, 0, 0, 0, 3, 0, 0)
    views = augment(images, torch.Generator().manual_seed(1), none)
    torch.testing.assert_close(views, images)
    views = augment(images, torch.Generator().manual_seed(1))
    again = augment(images, torch.Generator().manual_seed(1))
    assert torch.equal(views, again)
    assert (views - images).abs().amax((1, 2, 3)).min() > 0.05


def test_bench_prints_a_table_and_json(command):
    args = ["--vicreg", "16x32", "--rows", 200, "--dim", 8, "--classes", 5, "--seconds", 0]
    code, out, err = command("bench", *args, "--device", "cpu")
    assert (code, err) == (0, "")
    assert "VICReg step, 16 x 32" in out
    code, out, _ = command("bench", *args, "--device", "cpu", "--json")
    assert code == 0
    for comparison in json.loads(out)["speed"]:
        assert comparison["speedup"] > 0
        assert comparison["error"] < 1e-5


@pytest.mark.parametrize("args", [["--vicreg", "16"], ["--vicreg", "1x5"], ["--rows", "10"]])
def test_bench_refuses_sizes_it_cannot_take(command, args):
    code, _, err = command("bench", *args)
    assert code == 2
    assert args[0] in err.replace("--classes: at most", "") and len(err.splitlines()) == 1


def test_info_says_what_is_usable_and_why_not(command):
    code, out, _ = command("info")
    assert code == 0
    assert ssk.__version__ in out and torch.__version__ in out
    code, out, _ = command("info", "--json")
    known = json.loads(out)
    assert set(known["backends"]) == set(ssk.backends())
    for name, status in ssk.backends().items():
        assert known["backends"][name] == status._asdict()
    assert known["machine"]["threads"] == torch.get_num_threads()


def test_version_and_help(command):
    assert command("--version")[:2] == (0, f"sslkernels {ssk.__version__}\n")
    for name in ("report", "demo", "study", "bench", "info"):
        assert name in command("--help")[1]
        code, out, _ = command(name, "--help")
        assert code == 0
        assert "--help" in out


def test_without_the_extra_packages(command, monkeypatch):
    monkeypatch.setattr("sslkernels.cli.find_spec", lambda name: None if name == "rich" else 1)
    code, out, err = command("bench")
    assert (code, out) == (2, "")
    assert err == "sslkernels: the command line needs rich: pip install 'sslkernels[cli]'\n"


def test_an_instruction_set_that_does_not_exist():
    done = subprocess.run(
        [sys.executable, "-m", "sslkernels", "info"],
        env={**os.environ, "SSLKERNELS_CPU_ISA": "abacus"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "SSLKERNELS_CPU_ISA=abacus" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupts_leave_nothing_behind(tmp_path, number, status):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "z.npy", rng.normal(size=(1_000_000, 8)).astype(np.float32))
    np.save(tmp_path / "y.npy", rng.integers(0, 9, 1_000_000))
    before = sorted(tmp_path.iterdir())
    args = ["report", "z.npy", "--labels", "y.npy", "--chunk-rows", "1", "--out", "a/b"]
    args += ["--checkpoint", "progress"]  # its first writing says that the run is on its way
    process = subprocess.Popen(
        [sys.executable, "-m", "sslkernels", *args],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A job that a shell has put into the background would hand on that it ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        patience = time.monotonic() + 60
        while not (tmp_path / "progress").exists():
            assert process.poll() is None and time.monotonic() < patience
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == status
    assert out == "" and len(err.splitlines()) == (1 if number == signal.SIGINT else 0)
    (tmp_path / "progress").unlink()  # kept: the next run goes on from it
    assert sorted(tmp_path.iterdir()) == before


def test_info_needs_nothing_but_torch(monkeypatch, capsys):
    import sslkernels.cli as cli

    monkeypatch.setattr(cli, "find_spec", lambda name: None if name in ("typer", "rich") else 1)
    with pytest.raises(SystemExit) as left:
        cli.main(["info"])
    said = capsys.readouterr().out
    assert left.value.code == 0 and "torch" in said and "cpu           usable" in said
    assert "report, demo, study and bench need typer, rich: pip install 'sslkernels[cli]'" in said
    with pytest.raises(SystemExit) as left:
        cli.main(["bench"])
    assert left.value.code == 2
