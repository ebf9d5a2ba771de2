"""Triton kernels for GPU tensors; with ``TRITON_INTERPRET=1``, for CPU tensors too."""

from __future__ import annotations

import importlib.util
import os

import torch


def interpreting() -> bool:
    """Whether Triton's interpreter was asked for before the kernels were imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def unusable() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'sslkernels[triton]')"
    if not torch.cuda.is_available() and not interpreting():
        return "no GPU that torch can use (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"
    return None


def describe() -> str:
    import triton

    where = "interpreter" if interpreting() else torch.cuda.get_device_name()
    return f"triton {triton.__version__}, {where}"


def cannot(pass_name: str, tensor: torch.Tensor) -> str | None:
    return f"{pass_name} has no Triton kernel yet"
