"""What the tests of rows against classes share: dtypes, and problems that reach every part of a
kernel."""

from __future__ import annotations

from typing import NamedTuple

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Shape(NamedTuple):
    """Rows [n, d] as tests.inputs.lay_out has them, c centers ``separation`` apart."""

    n: int
    d: int
    c: int
    layout: str
    separation: float


SHAPES = (
    Shape(70, 40, 9, "contiguous", 1.0),
    Shape(20, 130, 150, "padded", 0.02),
    Shape(17, 7, 300, "transposed", 0.3),
    Shape(3, 1, 2, "contiguous", 1.0),
)
