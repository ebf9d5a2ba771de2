"""The recorder tells what a device would launch, and the shapes reach every configuration there is
to choose: what test_aot.py proves is then all that runs."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sslkernels.backends.triton import INTERPRETED

if INTERPRETED:
    pytest.skip("records compiled launches: not when interpreting", allow_module_level=True)

from triton.runtime.jit import JITFunction

from sslkernels.backends import triton as passes
from sslkernels.backends.triton.class_moments import tiles as class_tiles
from sslkernels.backends.triton.class_projections import tiles as projection_tiles
from sslkernels.backends.triton.core import arithmetic, launch
from sslkernels.backends.triton.nearest_center import tiles as center_tiles
from sslkernels.backends.triton.nt_xent.tiles import logit_candidates
from sslkernels.backends.triton.product import tiles
from sslkernels.backends.triton.vicreg.tiles import WITHOUT_PRODUCT
from tests.triton import aot, recorder, shapes

Facts = dict[str, Any]
targets = pytest.mark.parametrize("target", recorder.DEVICES)

# Kernels that read the caller's rows: with 128-bit loads, and without.
READERS = {
    *("barlow_twins_rows_kernel", "center_scan_kernel", "class_merge_kernel"),
    *("class_moments_kernel", "column_moments_kernel"),
    *("nt_xent_finish_kernel", "operands_kernel"),
    *("projection_decide_kernel", "projection_rows_kernel", "standardize_kernel"),
    *("unit_columns_kernel", "unit_lengths_kernel", "unit_rows_kernel", "vicreg_backward_kernel"),
}


def operands(device: launch.Device) -> set[arithmetic.Operand]:
    """In what products are multiplied there, whatever the rows and torch's setting."""
    found = {arithmetic.operand(dtype, device) for dtype in shapes.HALF}
    for precision in shapes.FULL, "high":
        with shapes.multiplied(precision):
            found.add(arithmetic.operand(torch.float32, device))
    return found


def given(tile: Any, **more: Any) -> Facts:
    """What a launch with a tile is compiled for."""
    return {**tile.constexprs, "warps": tile.num_warps, "stages": tile.num_stages, **more}


def choices(device: launch.Device) -> Iterator[tuple[str, Facts]]:
    """Kernels, and what each of their launches that choose otherwise is compiled for."""
    for op in operands(device):
        for tile, split in itertools.product(
            tiles.gram_candidates(op.dtype, device), (True, False)
        ):
            yield "gram_kernel", given(tile, **op.constexprs, SPLIT=split)
        product = {"SEGMENTS": op.segments, "PRECISION": op.precision}
        for tile in tiles.backward_candidates(op.dtype, device):
            yield "product_kernel", given(tile, **product)
            yield "vicreg_backward_kernel", given(tile, **product, COVARIANCE=True)
        plain = given(WITHOUT_PRODUCT, **product, COVARIANCE=False)
        yield "vicreg_backward_kernel", plain
        for tile in logit_candidates(op, device):
            yield "nt_xent_forward_kernel", given(tile, **op.constexprs)
            yield "nt_xent_weights_kernel", given(tile, **op.constexprs)
    for dtype, name in (
        (torch.float16, "*fp16"),
        (torch.bfloat16, "*bf16"),
        (torch.float32, "*fp32"),
    ):
        for sizes in center_tiles.candidates(dtype, device):
            yield "center_filter_kernel", given(sizes.first, SPLIT=False, z_ptr=name)
            yield "center_filter_kernel", given(sizes.split, SPLIT=True, z_ptr=name)
        for n, d in itertools.product((1, 1 << 12, 1 << 24), (1, 33, 129, 257, 4096)):
            rows, step, block_d, warps, _ = class_tiles.choose(n, d, [10], dtype)
            facts = {"R": rows, "ROWS": step, "BLOCK_D": block_d, "warps": warps, "z_ptr": name}
            yield "class_moments_kernel", facts
    yield "projection_kernel", given(projection_tiles.choose(device))


@targets
def test_every_choice_is_recorded_and_no_other(target) -> None:
    wanted: dict[tuple[str, tuple[str, ...]], set[tuple[Any, ...]]] = {}
    for kernel, facts in choices(recorder.DEVICES[target]):
        names = tuple(sorted(facts))
        wanted.setdefault((kernel, names), set()).add(tuple(facts[name] for name in names))
    for (kernel, names), facts in wanted.items():
        recorded = set()
        for one in aot.launches(target):
            if one.kernel.__name__ == kernel:
                known = {**one.signature, **one.constants}
                known |= {"warps": one.num_warps, "stages": one.num_stages}
                recorded.add(tuple(known[name] for name in names))
        assert recorded == facts, (kernel, names)


@targets
def test_rows_of_every_dtype_are_read_with_wide_loads_and_without(target) -> None:
    vectors: dict[str, set[tuple[str, int]]] = {kernel: set() for kernel in READERS}
    for one in aot.launches(target):
        name, vector = one.kernel.__name__, one.constants.get("VEC")
        if name in READERS:
            rows = one.signature["x_ptr" if "x_ptr" in one.signature else "z_ptr"]
            vectors[name].add((rows, vector))
        else:  # reads what a launcher has laid out, or does not ask
            assert vector != 1 or name == "correlation_kernel", name
    widths = {"*fp16": 8, "*bf16": 8, "*fp32": 4}
    both = {(rows, vector) for rows, width in widths.items() for vector in (1, width)}
    assert vectors == dict.fromkeys(READERS, both)


@targets
def test_every_kernel_is_recorded(target) -> None:
    package = importlib.import_module("sslkernels.backends.triton")
    found = set()
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        members = vars(importlib.import_module(module.name)).values()
        found |= {one.__name__ for one in members if isinstance(one, JITFunction)}
    recorded = {one.kernel.__name__ for one in aot.launches(target)}
    assert recorded == {name for name in found if name.endswith("_kernel")}


def test_what_a_launch_says() -> None:
    """Types, constants, grids; a tensor that starts between 128-bit words is not aligned."""
    z = torch.empty(1 << 16, 512, dtype=torch.bfloat16, device="meta")
    device = recorder.DEVICES["sm90"]
    lengths, columns = recorder.record(device, lambda: passes.unit_moments_forward(z))
    assert lengths.kernel.__name__ == "unit_lengths_kernel" and lengths.grid == (1 << 16,)
    assert columns.grid == (4, 525)
    assert lengths.signature["z_ptr"] == "*bf16" and lengths.signature["D"] == "i32"
    assert lengths.constants == {"VEC": 8, "BLOCK": 1024} and lengths.num_warps == 2
    aligned = [["tt.divisibility", 16]]
    assert lengths.attrs == {(0,): aligned, (1,): aligned}
    z = torch.empty(1 + (1 << 25), dtype=torch.bfloat16, device="meta")[1:].view(1 << 16, 512)
    lengths, _ = recorder.record(device, lambda: passes.unit_moments_forward(z))
    assert lengths.constants["VEC"] == 1 and not lengths.attrs.get((0,))


def test_a_launcher_that_reads_a_result_fails() -> None:
    z = torch.empty(4, 4, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        recorder.record(recorder.DEVICES["sm90"], lambda: z.sum().item())


def test_nothing_is_left_replaced() -> None:
    before = JITFunction.run, launch.device_of
    recorder.record(recorder.DEVICES["sm80"], lambda: None)
    assert (JITFunction.run, launch.device_of) == before
