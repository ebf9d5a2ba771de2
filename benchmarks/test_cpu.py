"""``pytest benchmarks``: the same workloads under pytest-benchmark, which keeps and compares runs
(``--benchmark-autosave``, ``--benchmark-compare``; ``-k nearest`` chooses)."""

import functools
from typing import Any

import pytest

from benchmarks.cpu import WORKLOADS
from sslkernels.report.speed import Case, Workload, is_wrong


@functools.lru_cache(maxsize=1)  # the next workload's data takes the place of this one's
def built(workload: Workload) -> Case:
    return workload.build()


@pytest.mark.parametrize(
    ("workload", "name"),
    [pytest.param(w, name, id=f"{w.name}-{name}") for w in WORKLOADS for name in w.contenders],
)
def test_speed(benchmark: Any, workload: Workload, name: str) -> None:
    case = built(workload)
    benchmark.group = workload.name
    result = benchmark.pedantic(case.contenders[name], rounds=workload.rounds, warmup_rounds=1)
    error = benchmark.extra_info["error"] = case.error(result)
    assert not is_wrong(error, case.bounds[name])
