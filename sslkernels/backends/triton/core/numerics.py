"""Roundings and products that mean the same compiled and interpreted.

Triton's interpreter computes in NumPy, which has no bf16: it multiplies the raw bits and truncates
where hardware rounds to nearest. Each helper compiles to the plain operation.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sslkernels.backends.triton.core import launch

_INTERPRETED = tl.constexpr(launch.INTERPRETED)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b, accumulated in fp32."""
    if _INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def narrow(value, dtype: tl.constexpr):
    """fp32 to fp32, fp16 or bf16, to nearest even."""
    if _INTERPRETED and dtype == tl.bfloat16:
        bits = value.to(tl.int32, bitcast=True)
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)
        value = tl.where(value == value, rounded.to(tl.float32, bitcast=True), value)
    return value.to(dtype)


@triton.jit
def round_tf32(value):
    """fp32 to the nearest number with tf32's 11 bits. A tensor core would truncate, which biases
    every product."""
    bits = value.to(tl.int32, bitcast=True)
    rounded = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return tl.where(value == value, rounded, value)
