"""What losses decide about their views: the dtype of results, the side of products, centering."""

from __future__ import annotations

import torch
from torch import Tensor


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 input, float32 for any other: of terms, Gram matrices, class means."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def wide(n: int, d: int) -> bool:
    """Whether N x D rows are multiplied as Z Z^T [N, N] rather than Z^T Z [D, D].

    The subtraction of the diagonal that Z Z^T needs loses a factor of about D / (D - N + 1) when
    the data is white. Asking for 8 N <= 7 D holds that to 8 for at most 8/7 of the cheaper side's
    work.
    """
    return 8 * n <= 7 * d


def center(z: Tensor, mean: Tensor) -> Tensor:
    """z [..., N, D] less a float64 mean [..., D], in the result dtype. The mean is split in two, so
    that a large common offset costs no digits."""
    dtype = result_dtype(z.dtype)
    high = mean.to(dtype)
    return (z.to(dtype) - high.unsqueeze(-2)).sub_((mean - high).to(dtype).unsqueeze(-2))
