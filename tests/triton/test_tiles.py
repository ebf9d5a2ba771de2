"""The tile chooser's arithmetic, and that autotuning keeps the fastest candidate."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import triton

from sslkernels.backends.triton.core import arithmetic, launch, tuning
from sslkernels.backends.triton.product import tiles
from sslkernels.backends.triton.vicreg.tiles import problems_at_once

H100 = launch.Device("cuda", 90, 32, 132, 232448)


def test_few_tiles_split_the_contraction() -> None:
    assert tiles.splits(6, 128, H100) == 16  # (256, 8192), two views: eight steps each
    assert tiles.splits(272, 1000, H100) == 1
    assert tiles.splits(1, 4, H100) == 1


def test_rows_split_only_when_long() -> None:
    assert tiles.row_splits(128, 256, H100) == 1
    assert tiles.row_splits(8, 4096, H100) == 8
    assert tiles.row_splits(1, 1 << 20, H100) == 264


def test_problems_share_a_launch_while_they_fit_the_cache() -> None:
    assert problems_at_once(2, 4 << 20) == 2
    assert problems_at_once(2, 32 << 20) == 1
    assert problems_at_once(100, 1 << 20) == 32
    assert problems_at_once(3, 1 << 40) == 1


@pytest.fixture
def settings() -> Iterator[None]:
    """Torch's precisions of fp32 products, as they were."""
    matmul = torch.backends.cuda.matmul
    before, new = torch.get_float32_matmul_precision(), getattr(matmul, "fp32_precision", None)
    yield
    if new is not None:
        torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision(before)
    if new is not None:
        matmul.fp32_precision = new


@pytest.mark.parametrize(
    "dtype, precision, planes",
    [
        (torch.bfloat16, "highest", 1),
        (torch.float16, "highest", 1),
        (torch.float32, "highest", 2),
        (torch.float32, "high", 1),
        (torch.float32, "medium", 1),
    ],
)
def test_operands_follow_dtype_and_setting(dtype, precision, planes, settings) -> None:
    torch.set_float32_matmul_precision(precision)
    op = arithmetic.operand(dtype, H100)
    assert op.planes == planes


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has the old one only"
)
@pytest.mark.parametrize("where", [torch.backends.cuda.matmul, torch.backends])
@pytest.mark.parametrize("precision, planes", [("tf32", 1), ("ieee", 2), ("none", 2)])
def test_operands_follow_the_new_setting(where, precision, planes, settings) -> None:
    torch.backends.cuda.matmul.fp32_precision = "none"  # what holds everywhere holds here
    where.fp32_precision = precision
    assert arithmetic.operand(torch.float32, H100).planes == planes


def test_autotuning_keeps_the_fastest(monkeypatch) -> None:
    monkeypatch.setattr(tuning, "AUTOTUNE", True)
    monkeypatch.setattr(tuning, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(triton.testing, "do_bench", lambda run, return_mode: run())
    timed = []

    def run(candidate: int) -> int:
        timed.append(candidate)
        return candidate

    for _ in range(2):
        assert tuning.pick((3, 1, 2), "a key of this test", run) == 1
    assert timed == [3, 1, 2]


def test_without_autotuning_the_first_is_taken(monkeypatch) -> None:
    monkeypatch.setattr(tuning, "AUTOTUNE", False)
    assert tuning.pick((3, 1), "another key", lambda candidate: 1 / 0) == 3
