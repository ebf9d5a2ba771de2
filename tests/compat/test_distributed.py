"""The drop-ins over the batches of several processes; what they run is in ``ranks.py``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("originals", ["lightly", "formulas"])
def test_gather(request, ranks, originals):
    if originals == "lightly":
        request.getfixturevalue("lightly")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launch, "--nproc_per_node", str(ranks), "-m", "tests.compat.ranks", originals],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-4000:]
