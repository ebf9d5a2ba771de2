"""Every workload and contender under pytest-benchmark; ``make bench`` prints the tables."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest

from benchmarks.cpu import WORKLOADS
from benchmarks.registry import Case, Workload

BY_NAME = {w.name: w for w in WORKLOADS}


@functools.lru_cache(maxsize=1)  # one workload's data at a time
def case(name: str) -> Case:
    return BY_NAME[name].build()


def pairs() -> list[tuple[str, str]]:
    return [(w.name, contender) for w in BY_NAME.values() for contender in w.contenders]


def peak_memory(workload: Workload, contender: str) -> float:
    """Bytes beyond input and result, in a fresh process (see benchmarks/memory.py)."""
    command = [sys.executable, "-m", "benchmarks.memory", workload.name, contender]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else float("nan")


@pytest.mark.parametrize(("name", "contender"), pairs())
def test_contender(benchmark, name: str, contender: str) -> None:
    workload = BY_NAME[name]
    job = case(name).contenders[contender]
    result = benchmark.pedantic(job, rounds=workload.rounds, warmup_rounds=1)
    benchmark.group = name
    benchmark.extra_info.update(
        contender=contender,
        error=case(name).error(result),
        amount=case(name).amount,
        unit=case(name).unit,
        memory=peak_memory(workload, contender),
    )
