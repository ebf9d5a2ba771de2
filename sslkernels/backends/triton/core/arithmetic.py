"""In what arithmetic a kernel multiplies, from dtype, device and torch's setting."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from sslkernels.backends.triton.core.launch import Device


class Operand(NamedTuple):
    """How data enters a product."""

    dtype: torch.dtype  # of the copy that the product reads
    planes: int  # 2: hi and lo, multiplied as three tf32 products (gram.py)
    # "none", "tf32" (to nearest: the hardware would truncate), or two planes: "split" of tf32,
    # "halves" of fp16.
    rounding: str
    precision: str  # tl.dot's input_precision

    @property
    def segments(self) -> int:
        """Products in one: hi hi, or hi hi, hi lo and lo hi."""
        return 2 * self.planes - 1

    @property
    def constexprs(self) -> dict[str, Any]:
        """What a kernel that multiplies such data is compiled for."""
        vector = 16 // self.dtype.itemsize
        return {"SEGMENTS": self.segments, "PRECISION": self.precision, "VEC": vector}


def operand(dtype: torch.dtype, device: Device) -> Operand:
    """bf16 stays bf16. fp32 follows torch's setting (:func:`full_fp32`): in full it is three tf32
    products on CUDA and the matrix units' own fp32 on AMD, else one tf32 product.

    fp16 is multiplied as tf32, which has fp16's 11 bits without its range: centered values and
    entries of K overflow fp16 long before the loss does.
    """
    if dtype == torch.bfloat16:
        return Operand(torch.bfloat16, 1, "none", "ieee")
    if dtype == torch.float32 and full_fp32():
        return exact(device)
    return _tf32(device)


def full_fp32() -> bool:
    """Whether torch asks for fp32 products of fp32 data: ``torch.backends.cuda.matmul``'s
    ``fp32_precision`` is not "tf32". ``torch.set_float32_matmul_precision`` sets that too, but its
    getter raises once somebody has set the new one; older versions of torch have only the getter.
    """
    precision = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    if precision is None:
        return torch.get_float32_matmul_precision() == "highest"
    return bool(precision != "tf32")


def _tf32(device: Device) -> Operand:
    if device.backend == "hip" and not str(device.arch).startswith("gfx942"):
        return Operand(torch.float32, 1, "none", "ieee")
    return Operand(torch.float32, 1, "tf32", "tf32")


def exact(device: Device) -> Operand:
    if device.backend == "hip":
        return Operand(torch.float32, 1, "none", "ieee")
    return Operand(torch.float32, 2, "split", "tf32")


HALVES = Operand(torch.float16, 2, "halves", "ieee")  # of rows brought to one length
