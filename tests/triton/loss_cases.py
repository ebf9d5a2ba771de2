"""What the tests of the losses' kernels share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FLOOR = {torch.float32: 8 * 2.0**-23, torch.float16: 2 * 2.0**-11, torch.bfloat16: 2 * 2.0**-8}


def views(
    n: int, d: int, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two correlated views with columns of unequal spread and mean."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.3, 1.8, d)
    x = torch.randn(n, d, generator=generator) * scale + torch.randn(d, generator=generator)
    y = x + 0.5 * torch.randn(n, d, generator=generator)
    return x.to(device, dtype), y.to(device, dtype)


def strided(layout: str, n: int, d: int, device: torch.device) -> torch.Tensor:
    """A view [n, d] that is not contiguous."""
    base = torch.randn(2 * n + 2 * d, 2 * n + 2 * d, generator=torch.Generator().manual_seed(1))
    base = base.to(device)
    return {
        "rows": lambda: base[: 2 * n : 2, :d],
        "columns": lambda: base[:n, : 2 * d : 2],
        "transposed": lambda: base[:d, :n].T,
        "offset": lambda: base[1 : n + 1, 1 : d + 1],  # no 16-byte alignment
    }[layout]()


LAYOUTS = ["rows", "columns", "transposed", "offset"]


def array(z: torch.Tensor) -> np.ndarray:
    return z.detach().double().cpu().numpy()


def error(value: torch.Tensor, true: np.ndarray | float) -> float:
    scale = np.linalg.norm(true)
    return float(np.linalg.norm(array(value) - true) / (scale or 1.0))


def assert_as_good(
    ours: list[torch.Tensor],
    theirs: list[torch.Tensor],
    true: list[np.ndarray],
    dtype: torch.dtype,
    times: float = 2.0,
) -> None:
    """Errors within ``times`` eager's at the same dtype, or FLOOR where eager is lucky."""
    for value, rival, exact in zip(ours, theirs, true, strict=True):
        assert error(value, exact) <= max(times * error(rival, exact), FLOOR[dtype])


def eager(
    formula: Callable[..., torch.Tensor], inputs: list[torch.Tensor], grad: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Terms and gradients of a formula in plain torch, in the inputs' dtype."""
    leaves = [z.detach().clone().requires_grad_() for z in inputs]
    terms = formula(*leaves)
    terms.backward(grad.to(terms.dtype))
    return list(terms.detach()), [z.grad for z in leaves if z.grad is not None]


def fp32_products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    yield
    torch.set_float32_matmul_precision(before)
