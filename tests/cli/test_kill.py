"""A report that is killed, at any moment, goes on from its checkpoint to the same bytes."""

import random
import time

import numpy as np
import pytest

from tests.cli.processes import reached, run, start

pytestmark = pytest.mark.slow

KILLS = 10
LAYERS = ("shallow", "deep")
ARGS = ["report", *(f"{layer}={layer}.npy" for layer in LAYERS), "--chunk-rows", "10"]
ARGS += ["--labels", "fine=fine.npy", "--labels", "chance=chance.npy", "--few-shot", "2"]
ARGS += ["--few-shot-repeats", "2", "--test", "test.npy", "--test", "test.npy"]
ARGS += ["--test-labels", "fine=fine_test.npy"]
# Dies where the n-th file of some name is whole but has not got that name yet.
KILLER = """
import os, signal, sys
from sslkernels.cli import main
name, left = sys.argv.pop(1).split(":")
left, replace = int(left), os.replace
def last(source, target):
    global left
    left -= name in str(target)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = last
main()
"""


def save_data(folder, rows):
    rng = np.random.default_rng(0)
    fine, fine_test = (rng.integers(0, 5, n) for n in (rows, 200))
    means = rng.normal(size=(5, 12))
    arrays = {"fine": fine, "fine_test": fine_test, "chance": rng.integers(0, 3, rows)}
    for name, y, spread in (
        ("shallow", fine, 3.0),
        ("deep", fine, 1.0),
        ("test", fine_test, 1.0),
    ):
        arrays[name] = (means[y] + spread * rng.normal(size=(len(y), 12))).astype(np.float32)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def written(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_killed_ten_times(tmp_path):
    save_data(tmp_path, rows=4000)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert run(tmp_path, *ARGS, "--out", "whole")[0] == 0
    checkpoint = tmp_path / "progress"
    chance = random.Random(0)
    places = [(0, 0, 0)]
    for _ in range(KILLS):
        # Written after every chunk, so that a kill falls on a writing as often as between two.
        process = start(tmp_path, *ARGS, "--checkpoint", "progress", "--checkpoint-seconds", 0)
        try:
            seen, patience = _stamp(checkpoint), time.monotonic() + 60
            while _stamp(checkpoint) == seen:
                assert process.poll() is None and time.monotonic() < patience
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.15))
            assert process.poll() is None, "the report was finished before it could be killed"
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == -9
        places.append(reached(checkpoint))
    assert places == sorted(places)
    assert len(set(places)) > KILLS // 2  # most runs came further than the one before
    assert sum(chunks > 0 for _, _, chunks in places) > KILLS // 2
    code, _, err = run(tmp_path, *ARGS, "--checkpoint", "progress", "--out", "pieces")
    assert (code, err) == (0, "")
    assert written(tmp_path / "pieces") == written(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "pieces", "whole"])


def _stamp(path):
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def test_killed_while_files_are_written(tmp_path):
    save_data(tmp_path, rows=100)
    assert run(tmp_path, *ARGS, "--out", "whole")[0] == 0
    whole = written(tmp_path / "whole")
    (tmp_path / "out").mkdir()
    how = ["--checkpoint", "progress", "--checkpoint-seconds", 0, "--out", "out"]
    for place in ("progress:1", "progress:2", "progress:30", "report.csv:2", "report.png:1"):
        code, _, err = run(tmp_path, place, *ARGS, *how, script=KILLER)
        assert (code, err) == (-9, "")
        if place != "progress:1":
            reached(tmp_path / "progress")  # a whole file, whatever its writer met
        for path in (tmp_path / "out").glob("report.*"):
            assert path.read_bytes() == whole[path.name]
    assert (tmp_path / "out/report.csv").exists()  # the last kill fell between files of a report
    code, _, err = run(tmp_path, *ARGS, *how)
    assert (code, err) == (0, "")
    assert written(tmp_path / "out") == whole
    assert not list(tmp_path.glob("*progress*"))


@pytest.mark.parametrize("change", ["--seed=1", "--normalize", "--chunk-rows=20", "--few-shot=3"])
def test_another_run_does_not_take_the_checkpoint(command, tmp_path, change):
    save_data(tmp_path, rows=100)
    kept = [*ARGS, "--checkpoint", "progress", "--checkpoint-seconds", 0]
    assert run(tmp_path, "progress:30", *kept, script=KILLER)[0] == -9
    code, _, err = command(*kept, change)
    assert code == 2
    assert "checkpoint progress: of another run, its" in err and len(err.splitlines()) == 1
    array = np.load(tmp_path / "deep.npy")
    np.save(tmp_path / "deep.npy", array + 1)
    code, _, err = command(*kept)
    assert code == 2
    assert "its inputs differ" in err
