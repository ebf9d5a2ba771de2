"""What a case is made of, drawn from its seed."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any, NamedTuple

import torch

ROWS, COLUMNS = 60_000, 40_000
DTYPES = (torch.float32,) * 3 + (torch.float64, torch.bfloat16, torch.float16)
_HALF = (torch.float16, torch.bfloat16)
_TILES = (16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048)
_LAYOUTS = ("contiguous",) * 4 + (
    *("transposed", "slice", "every other row", "every other column", "shifted", "expanded"),
    "reversed",
)


class Rows(NamedTuple):
    """Rows as a function gets them, the very numbers in float64, and how they were drawn."""

    given: Any
    exact: torch.Tensor
    dtype: torch.dtype
    facts: str


class Draw:
    """The luck of one case: the same for the same seed and scale.

    ``backend`` is the one that was asked for, if any: it may promise less than another.
    """

    def __init__(self, seed: int, scale: float = 1.0, backend: str | None = None) -> None:
        self.luck = random.Random(seed)
        self.scale, self.backend = scale, backend
        self._generator = torch.Generator().manual_seed(seed)

    def chance(self, share: float) -> bool:
        return self.luck.random() < share

    def pick(self, options: Any) -> Any:
        return self.luck.choice(options)

    def dtype(self) -> torch.dtype:
        return self.pick(DTYPES)

    def normal(self, *size: int) -> torch.Tensor:
        return torch.randn(size, generator=self._generator, dtype=torch.float64)

    def below(self, limit: int, *size: int) -> torch.Tensor:
        return torch.randint(limit, size, generator=self._generator)

    def size(self, low: int, high: int) -> int:
        """Log-uniform in [low, high * scale], some of them where plans have their edges."""
        high = max(low + 1, int(high * self.scale))
        n = int(math.exp(self.luck.uniform(math.log(low), math.log(high + 1))))
        kind = self.luck.random()
        if kind < 0.25:
            n = 2 ** round(math.log2(n)) + self.pick((-1, 0, 1))
        elif kind < 0.4:
            tile = self.pick(_TILES)
            n = max(1, round(n / tile)) * tile + self.pick((-1, 0, 1))
        elif kind < 0.55:
            n = _prime(n)
        return max(low, min(high, n))

    def shape(
        self, *, rows: int = 2, columns: int = 1, elements: float = 4e6, flops: float = math.inf
    ) -> tuple[int, int]:
        """At least ``rows`` x ``columns``; ``flops`` limits the product on the smaller side.

        Every other shape is large: most plans cut nothing below 200,000 elements.
        """
        least = 0.05 * elements * self.scale if self.chance(0.5) else 0
        while True:
            n, d = self.size(rows, ROWS), self.size(columns, COLUMNS)
            if least <= n * d <= elements and 2 * n * d * min(n, d) <= flops:
                return n, d

    def within(self, limit: float, *sizes: tuple[int, int]) -> tuple[int, ...]:
        """Sizes [low, high] each, with a product of at most ``limit``."""
        while True:
            drawn = tuple(self.size(low, high) for low, high in sizes)
            if math.prod(drawn) <= limit:
                return drawn

    def offset(self, dtype: torch.dtype, d: int) -> torch.Tensor:
        """A common offset [d]: none, or up to 1000 times the spread of the rows."""
        sizes = (0, 0, 3) if dtype in _HALF else (0, 0, 3, 1000)
        return self.pick(sizes) * self.normal(d)

    def rows(self, z: torch.Tensor, dtype: torch.dtype, *, arrays: bool = False) -> Rows:
        """``z`` [N, D] in ``dtype``, in some layout whose gaps are NaN; ``arrays`` allows NumPy."""
        layout = self.pick(_LAYOUTS)
        if layout == "expanded" and len(z) and self.chance(0.7):
            layout = "shifted"  # equal rows say little
        z = _laid_out(z.to(dtype), layout)
        exact = z.double()
        facts = f"[{z.shape[0]}, {z.shape[1]}] {str(dtype)[6:]}, {layout}"
        if not arrays or dtype == torch.bfloat16 or layout not in ("reversed", "slice"):
            return Rows(z, exact, dtype, facts)
        array = z.numpy()
        if layout == "reversed":
            array = array[::-1, ::-1]
            exact = exact.flip(0, 1)
        return Rows(array, exact, dtype, facts + ", NumPy")

    def embeddings(
        self,
        n: int,
        d: int,
        dtype: torch.dtype,
        *,
        offset: bool = True,
        spread: float = 1.0,
        arrays: bool = False,
    ) -> Rows:
        """Normal rows, the columns of unequal spread, around an offset if ``offset`` says so."""
        z = self.normal(n, d) * spread
        if self.chance(0.3):
            z *= torch.linspace(0.2, 2, d, dtype=torch.float64)
        if offset:
            z += self.offset(dtype, d)
        return self.rows(z, dtype, arrays=arrays)

    def labels(self, n: int, c: int) -> torch.Tensor:
        """int64 [n]: even, skewed, sorted, or nearly all one class; some rows without a label."""
        kind = self.luck.random()
        if kind < 0.5:
            out = self.below(c, n)
        elif kind < 0.7:
            out = (self.below(c, n).double() ** 2 / c).long().clamp(max=c - 1)
        elif kind < 0.85:
            out = torch.arange(n) * c // n
        else:
            out = torch.full((n,), self.luck.randrange(c))
            out[: n // 3] = self.below(c, n // 3)
        if self.chance(0.2):
            out[self.below(n, n // 7 + 1)] = -100
        return out

    def cuts(self, n: int, parts: int, *, least: int = 0) -> list[tuple[int, int]]:
        """Where each of ``parts`` stretches of n rows begins and ends; ``least`` rows or more."""
        free = n - parts * least
        inner = sorted(self.luck.randrange(free + 1) for _ in range(parts - 1))
        ends = [0, *(end + least * (k + 1) for k, end in enumerate(inner)), n]
        return list(itertools.pairwise(ends))


def _laid_out(z: torch.Tensor, layout: str) -> torch.Tensor:
    n, d = z.shape
    if layout == "transposed":
        return z.T.contiguous().T
    if layout == "slice":
        wide = z.new_full((n + 2, d + 5), torch.nan)
        wide[1:-1, 3 : 3 + d] = z
        return wide[1:-1, 3 : 3 + d]
    if layout == "every other row":
        tall = z.new_full((2 * n, d), torch.nan)
        tall[::2] = z
        return tall[::2]
    if layout == "every other column":
        wide = z.new_full((n, 2 * d), torch.nan)
        wide[:, ::2] = z
        return wide[:, ::2]
    if layout == "shifted":  # contiguous, but not where vectors like to begin
        flat = z.new_full((n * d + 1,), torch.nan)
        flat[1:] = z.flatten()
        return flat[1:].view(n, d)
    if layout == "expanded":
        return z[:1].expand(n, d)
    return z.contiguous()


def _prime(n: int) -> int:
    """The largest prime up to n, or 2."""
    while n > 2 and any(n % k == 0 for k in range(2, math.isqrt(n) + 1)):
        n -= 1
    return max(n, 2)
