"""The command line in processes of its own: to be killed, or several at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests import forked


def start(
    folder: Path, *args: Any, ranks: int = 0, script: str | None = None
) -> forked.Child | subprocess.Popen:
    """``sslkernels ARGS`` in ``folder``; by torchrun for ``ranks``; ``script`` in its place."""
    program = ["-c", script] if script else ["-m", "sslkernels"]
    program += map(str, args)
    if not ranks:
        return forked.Child(program, folder, {"OMP_NUM_THREADS": "1"})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    paths = [str(forked.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [*torchrun, "--nproc-per-node", str(ranks), *program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *args: Any, **how: Any) -> tuple[int, str, str]:
    """Exit status, stdout, stderr of a process that is given two minutes."""
    process = start(folder, *args, **how)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, out, err


def reached(path: Path) -> tuple[int, int, int]:
    """How far a checkpoint is: sources finished, stages, chunks of the last of them."""
    with np.load(path) as file:
        head = json.loads(file["head"].tobytes())
    stages = head["stages"]
    return len(head["results"]), len(stages), list(stages.values())[-1]["chunks"] if stages else 0
