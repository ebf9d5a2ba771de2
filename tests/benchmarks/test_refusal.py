"""No speed is printed for a contender whose result is out of bounds."""

import io
import json
import math

import pytest
from rich.console import Console

from benchmarks import __main__ as program
from sslkernels.report.speed import NO_RESULT, is_wrong


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


def benchmark(contender, error, wrong):
    about = {"workload": "product", "contender": contender, "error": error, "wrong": wrong}
    about |= {"amount": 1e9, "unit": "FLOP", "memory": 0.0}
    return {"extra_info": about, "stats": {"median": 0.123, "min": 0.122, "max": 0.124}}


@pytest.mark.parametrize("wrong", [None, "ours", "theirs"])
def test_a_wrong_row_has_no_speed_and_fails_the_command(monkeypatch, tmp_path, wrong):
    rows = [
        benchmark(name, 0.5 if name == wrong else 1e-7, name == wrong)
        for name in ("ours", "theirs")
    ]

    def measured(arguments):
        with open(arguments[arguments.index("--benchmark-json") + 1], "w") as file:
            json.dump({"benchmarks": rows}, file)
        return 0

    shown = io.StringIO()
    monkeypatch.setattr(program.pytest, "main", measured)
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
