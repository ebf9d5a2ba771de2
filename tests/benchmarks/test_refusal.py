"""No speed is printed for a contender whose result is out of bounds."""

import io
import json
import math

import pytest
import torch
from rich.console import Console

from benchmarks import __main__ as program
from sslkernels.report.speed import NO_RESULT, Case, Workload, is_wrong, timed


@pytest.mark.parametrize(
    "error, bound, wrong",
    [
        (1e-7, 1e-6, False),
        (0.0, 0.0, False),
        (2e-6, 1e-6, True),
        (math.nan, 1e-6, True),
        (math.inf, 1e-6, True),
        (math.nan, NO_RESULT, False),
    ],
)
def test_errors_and_bounds(error, bound, wrong):
    assert is_wrong(error, bound) is wrong


@pytest.mark.parametrize("wrong", [None, "ours", "theirs"])
def test_a_wrong_row_has_no_speed_and_fails_the_command(monkeypatch, tmp_path, wrong):
    names = ("ours", "theirs")

    def build():
        jobs = {name: lambda name=name: 0.5 if name == wrong else 1e-7 for name in names}
        return Case(jobs, lambda result: result, dict.fromkeys(names, 1e-6), 1e9, "FLOP")

    shown = io.StringIO()
    monkeypatch.setattr(program, "WORKLOADS", [Workload("product", names, build, 3)])
    monkeypatch.setattr(program, "timed", lambda job, *_, **__: ([0.122, 0.123, 0.124], job()))
    monkeypatch.setattr(program, "peak_memory", lambda *_: 0.0)
    limits = {"read B/s": 1e10, "fp32 product FLOP/s": 1e12}
    monkeypatch.setattr(program, "ceilings", lambda: limits)
    monkeypatch.setattr(program, "Console", lambda **_: Console(file=shown, width=140))
    monkeypatch.setattr("sys.argv", ["benchmarks", "--json", str(tmp_path / "rows.json")])
    assert program.main() == (wrong is not None)
    lines = [
        line for line in shown.getvalue().splitlines() if "│ ours" in line or "│ theirs" in line
    ]
    written = json.loads((tmp_path / "rows.json").read_text())["rows"]
    for line, row in zip(lines, written, strict=True):
        if row["contender"] == wrong:
            assert "WRONG" in line and "ms" not in line and row["median"] is None
        else:
            assert "123 ms" in line and row["median"] == 0.123


def test_calls_are_timed_until_the_budget_or_the_most_of_them():
    calls = []
    times, result = timed(lambda: calls.append(0) or len(calls), torch.device("cpu"), 0.0)
    assert (len(times), result, len(calls)) == (2, 3, 3)  # one to warm up
    assert len(timed(lambda: None, torch.device("cpu"), most=7)[0]) == 7
