"""Every workload and contender under pytest-benchmark; ``make bench`` prints the tables."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cpu import WORKLOADS
from sslkernels.report.speed import Case, Workload, is_wrong

BY_NAME = {w.name: w for w in WORKLOADS}


@functools.lru_cache(maxsize=1)  # one workload's data at a time
def case(name: str) -> Case:
    return BY_NAME[name].build()


def peak_memory(workload: Workload, contender: str) -> float:
    """Bytes beyond input and result, in a fresh process (see benchmarks/memory.py)."""
    command = [sys.executable, "-m", "benchmarks.memory", workload.name, contender]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else float("nan")


def test_contender(benchmark: BenchmarkFixture, name: str, contender: str) -> None:
    workload = BY_NAME[name]
    job = case(name).contenders[contender]
    benchmark.group = name
    result = benchmark.pedantic(job, rounds=workload.rounds, warmup_rounds=1)
    error, bound = case(name).error(result), case(name).bounds[contender]
    benchmark.extra_info.update(
        workload=name,
        contender=contender,
        error=error,
        wrong=is_wrong(error, bound),
        amount=case(name).amount,
        unit=case(name).unit,
        memory=peak_memory(workload, contender),
    )
