"""Inputs built to break kernels: every suite draws from the same factory."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYOUTS = ("contiguous", "transposed", "sliced", "padded")


@dataclass(frozen=True)
class Labelled:
    """Embeddings z [N, D] as the kernel gets them, labels int64 [N], and C."""

    z: torch.Tensor
    labels: torch.Tensor
    num_classes: int

    def exact(self) -> np.ndarray:
        """The very numbers that the kernel gets, in float64."""
        return self.z.double().numpy()


def lay_out(z: torch.Tensor, layout: str) -> torch.Tensor:
    """The same numbers with other strides; the gaps are poisoned with NaN."""
    n, d = z.shape
    if layout == "transposed":
        return z.T.contiguous().T
    if layout == "sliced":
        big = torch.full((n, 2 * d), torch.nan, dtype=z.dtype)
        big[:, ::2] = z
        return big[:, ::2]
    if layout == "padded":
        big = torch.full((n, d + 3), torch.nan, dtype=z.dtype)
        big[:, 1 : d + 1] = z
        return big[:, 1 : d + 1]
    return z.contiguous()


def labelled(
    n: int,
    d: int,
    num_classes: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    layout: str = "contiguous",
    offset: float = 0.0,
    separation: float = 3.0,
    ignored: float = 0.0,
    ignore_index: int = -100,
) -> Labelled:
    """Classes of unit spread around random means, all moved by ``offset``; some rows unlabelled."""
    labels, means, noise, luck = _draw(n, d, num_classes, seed)
    z = noise + (separation * means + offset)[labels]
    labels = labels.masked_fill(luck < ignored, ignore_index)
    return Labelled(lay_out(z.to(dtype), layout), labels, num_classes)


@functools.lru_cache(maxsize=4)  # drawing normals takes longer than all the kernels under test
def _draw(n: int, d: int, num_classes: int, seed: int) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (n,), generator=g)
    means = torch.randn(num_classes, d, generator=g, dtype=torch.float64)
    noise = torch.randn(n, d, generator=g, dtype=torch.float64)
    return labels, means, noise, torch.rand(n, generator=g)


@st.composite
def labelled_inputs(draw: st.DrawFn) -> Labelled:
    """Ragged sizes, more classes than rows, offsets up to 1e6 times the spread, odd strides."""
    dtype = draw(st.sampled_from(DTYPES))
    offsets = [0.0, 1e2] if dtype in (torch.float16, torch.bfloat16) else [0.0, 1e4, 1e6]
    return labelled(
        n=draw(st.integers(0, 70)),
        d=draw(st.integers(1, 40)),
        num_classes=draw(st.integers(1, 90)),
        seed=draw(st.integers(0, 2**31)),
        dtype=dtype,
        layout=draw(st.sampled_from(LAYOUTS)),
        offset=draw(st.sampled_from(offsets)),
        separation=draw(st.sampled_from([0.0, 1e-3, 3.0])),
        ignored=draw(st.sampled_from([0.0, 0.3, 1.0])),
    )
