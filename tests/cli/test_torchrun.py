"""``torchrun -m sslkernels report``: the numbers of one process, one voice, no hang."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import torch.distributed as dist

from tests import forked
from tests.cli.processes import reached, run, start
from tests.evaluation.expected import assert_equal, expected, table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (dist.is_available() and dist.is_gloo_available()), reason="torch is built without Gloo"
    ),
]


def torchrun(folder, ranks, *args):
    return run(folder, *args, ranks=ranks)


@pytest.fixture
def shards(tmp_path):
    """Five shards of embeddings and labels; class 6 is in the last alone, the first has no
    labels by chance; test rows. The arrays by name."""
    rng = np.random.default_rng(0)
    means = 2 * rng.normal(size=(7, 10))
    sizes = (40, 7, 61, 3, 20)
    fine = np.concatenate([rng.integers(0, 6, n) for n in sizes])
    fine[-5:] = 6
    chance = rng.integers(0, 4, len(fine))
    chance[:40] = -100
    test = rng.integers(0, 7, 30)
    arrays = {"fine": fine, "chance": chance, "coarse": fine // 3, "test_fine": test}
    arrays["z"], arrays["test"] = (
        (means[y] + rng.normal(size=(len(y), 10))).astype(np.float32) for y in (fine, test)
    )
    bounds = np.cumsum([0, *sizes])
    for name in ("z", "fine", "chance", "coarse"):
        (tmp_path / name).mkdir()
        for i, n in enumerate(sizes):
            np.save(tmp_path / name / f"{name}_{i}.npy", arrays[name][bounds[i] : bounds[i] + n])
    for name in ("test", "test_fine"):
        np.save(tmp_path / f"{name}.npy", arrays[name])
    return arrays


ARGS = ["report", "z", "--labels", "fine=fine", "--labels", "coarse=coarse", "--view", "z"]
ARGS += ["--labels", "chance=chance", "--test", "test.npy", "--test-labels", "fine=test_fine.npy"]
ARGS += ["--few-shot", "2", "--few-shot-repeats", "3"]


@pytest.mark.parametrize(("ranks", "chunk_rows"), [(1, 9), (2, 9), (4, 9), (4, 1000)])
def test_results_are_the_references(tmp_path, shards, ranks, chunk_rows):
    """With chunks of 1000 rows the test rows are one chunk: ranks without any."""
    args = [*ARGS, "--chunk-rows", str(chunk_rows)]
    if ranks == 2:
        code, out, err = torchrun(tmp_path, ranks, *args)
    else:  # with torchrun's variables
        codes, outs, errs = zip(
            *forked.ranks(["-m", "sslkernels", *args], ranks, tmp_path), strict=True
        )
        code, out, err = max(codes), "".join(outs), "".join(errs)
    assert code == 0, err
    assert out.count("Wrote report.html") == out.count("Class geometry") == 1
    found = json.loads((tmp_path / "report/report.json").read_text())
    assert found["settings"]["ranks"] == ranks
    labels = {name: shards[name] for name in ("fine", "coarse", "chance")}
    want = expected(
        shards["z"],
        labels,
        shards["test"],
        {"fine": shards["test_fine"]},
        view=shards["z"],
        few_shot=(2,),
        few_shot_repeats=3,
    )
    assert_equal(table(found), want, rel=1e-5)


def only_error(err):
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    return line


def test_what_is_wrong_on_one_rank_ends_all_with_one_message(tmp_path, shards):
    before = sorted(tmp_path.rglob("*"))
    z = np.load(tmp_path / "z/z_4.npy")
    z[3, 0] = np.nan
    np.save(tmp_path / "z/z_4.npy", z)
    code, out, err = torchrun(tmp_path, 3, *ARGS, "--chunk-rows", 10)
    assert code != 0 and not out
    assert only_error(err) == (
        "error: z/z_4.npy: row 3 holds NaN or infinity; --skip-bad leaves such rows out"
    )
    assert sorted(tmp_path.rglob("*")) == before
    code, out, err = torchrun(tmp_path, 3, *ARGS, "--chunk-rows", 10, "--skip-bad")
    assert code == 0, err
    assert "1 train row with NaN or infinity: z/z_4.npy: row 3" in out


@pytest.mark.parametrize(
    "args, words",
    [
        (["--colour", "red"], "--colour"),
        (["--view", "test.npy"], "--view"),
        (["--checkpoint", "no/where"], "checkpoint no/where"),
    ],
)
def test_what_is_wrong_on_every_rank_is_said_once(tmp_path, shards, args, words):
    code, out, err = torchrun(tmp_path, 2, "report", "z", "--labels", "fine=fine", *args)
    assert code != 0 and not out
    assert words in only_error(err)


def test_a_rank_that_is_killed(tmp_path, shards):
    """The others end, and the next run goes on where each of them was, to the same bytes."""
    slow = ["--chunk-rows", "1", "--few-shot", "1,2,3,4"]
    assert torchrun(tmp_path, 2, *ARGS, *slow, "--out", "whole")[0] == 0
    kept = [*ARGS, *slow, "--checkpoint", "progress", "--checkpoint-seconds", "0"]
    process = start(tmp_path, *kept, ranks=2)
    try:
        patience = time.monotonic() + 60
        while not all(_read_some(tmp_path / f"progress.{rank}-of-2") for rank in range(2)):
            assert process.poll() is None and time.monotonic() < patience
            time.sleep(0.01)
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)],
            capture_output=True,
            text=True,
            check=True,
        )
        os.kill(int(children.stdout.split()[1]), signal.SIGKILL)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0 and not out
    code, _, err = torchrun(tmp_path, 2, *kept)
    assert code == 0, err
    for name in ("report.json", "report.csv"):
        whole, pieces = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "report"))
        assert whole == pieces
    assert not list(tmp_path.glob("*progress*"))


def _read_some(checkpoint):
    return checkpoint.exists() and reached(checkpoint)[2] > 3
