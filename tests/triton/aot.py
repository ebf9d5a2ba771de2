"""Compiles what the launchers launch, for GPUs that are not in this machine, and reads the machine
code.

The launches are those of ``shapes.py`` as ``recorder.py`` sees them: what is proven is what runs.
Everything that is launched on MAIN is compiled. For the other targets, so are the products; of the
other kernels, whose code hardly depends on the target, enough to show every type, attribute and
constant of every argument.

No kernel may spill, and none may take more shared memory than the target has. A product must have
tensor-core instructions; a kernel whose rows allow 128-bit loads (``VEC``) must have them.

``python -m tests.triton.aot --write`` (``make kernels``) writes a table of everything,
``build/kernels.md``, that of the hot kernels, ``docs/kernels.md``, and beside this file
``proven.txt``: a fingerprint of each thing that was compiled and found without fault. The same
source, configuration, target and version of Triton give the same code, so the tests compile what
is not in there, and of the rest a sample that is drawn anew each time.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import hashlib
import importlib
import multiprocessing
import os
import random
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import triton

from tests.triton import recorder, shapes
from tests.triton.recorder import DEVICES, Launch

PROVEN = Path(__file__).with_name("proven.txt")
_SAMPLE = 0.01  # of what is proven

MAIN = "sm90"

TENSOR_CORES = {
    "sm80": r"HMMA\.[\w.]+",
    "sm90": r"HGMMA\.[\w.]+",
    "sm100": r"UTC\w*MMA[\w.]*",
    "gfx942": r"v_mfma_\w+",
}
WIDE_LOADS = {
    "cuda": r"\b(?:LDG\.E[\w.]*\.128|LDGSTS\.[\w.]*128|UBLKCP|UTMALDG)[\w.]*",
    "hip": r"\b(?:global|buffer)_load_dwordx4\b",
}


PRODUCTS = {
    *("gram_kernel", "product_kernel", "vicreg_backward_kernel", "nt_xent_forward_kernel"),
    *("nt_xent_weights_kernel", "sigreg_forward_kernel", "sigreg_weights_kernel"),
    *("center_filter_kernel", "projection_kernel"),
}
# These read few elements at a time, however rows lie.
NARROW = {"center_scan_kernel", "class_merge_kernel", "projection_decide_kernel"}


class Result(NamedTuple):
    target: str
    kernel: str
    label: str
    registers: int
    spills: int  # bytes of stack, local-memory instructions or spilled registers: all must be 0
    shared: int
    tensor_cores: tuple[str, ...]  # the distinct instructions
    wide_loads: int
    instructions: int
    multiplies: bool  # whether the kernel asks for a matrix product
    streams: bool  # whether its rows allow 128-bit loads

    def faults(self) -> list[str]:
        found = []
        if self.spills:
            found.append(f"spills {self.spills}")
        if self.shared > DEVICES[self.target].shared_memory:
            found.append(f"takes {self.shared} bytes of shared memory")
        if self.multiplies and not self.tensor_cores:
            found.append("has no tensor-core instruction")
        if self.multiplies and self.kernel not in PRODUCTS:
            found.append("is not among PRODUCTS")
        if self.streams and not self.wide_loads:
            found.append("has no 128-bit global load")
        return found


@functools.cache
def launches(target: str) -> tuple[Launch, ...]:
    """All that is launched on a target, each machine code once."""
    device = DEVICES[target]
    return tuple(recorder.distinct(shapes.record_all(lambda call: recorder.record(device, call))))


@functools.cache
def cases(target: str) -> tuple[Launch, ...]:
    """What of it is compiled."""
    if target == MAIN:
        return launches(target)
    shown: set[object] = set()
    chosen = []
    for launch in launches(target):
        name = launch.kernel.__name__
        facts = (*launch.signature.items(), *launch.constexprs.items(), *launch.attrs.items())
        shows = {(name, repr(fact)) for fact in facts}
        if name in PRODUCTS or not shows <= shown:
            shown |= shows
            chosen.append(launch)
    return tuple(chosen)


def labels(target: str) -> dict[tuple[object, ...], str]:
    """By a launch's code, how it differs from the kernel's others: arguments that are not the same
    in all of them."""
    by_kernel: dict[str, list[Launch]] = {}
    for launch in launches(target):
        by_kernel.setdefault(launch.kernel.__name__, []).append(launch)
    found = {}
    for kernel in by_kernel.values():
        told = [_told(launch, DEVICES[target].backend) for launch in kernel]
        for launch, own in zip(kernel, told, strict=True):
            differs = [k for k, v in own.items() if any(v != other[k] for other in told)]
            found[launch.code] = " ".join(f"{k}={own[k]}" for k in differs)
    return found


def _told(launch: Launch, backend: str) -> dict[str, object]:
    told: dict[str, object] = {"warps": launch.num_warps, "stages": launch.num_stages}
    for i, (name, kind) in enumerate(launch.signature.items()):
        if kind == "constexpr":
            told[name] = launch.constants[name]
            continue
        alone = isinstance(kind, str)
        parts = []
        for j, part in enumerate([kind] if alone else kind):
            known = {fact for fact, _ in launch.attrs.get((i,) if alone else (i, j), ())}
            unusual = [word for fact, word in USUAL[backend].items() if fact not in known]
            parts.append(" ".join([part, *unusual]) if part.startswith("*") else part)
        told[name] = ",".join(parts)
    return told


# What Triton mostly knows of a pointer, and what the others are called.
USUAL = {
    "cuda": {"tt.divisibility": "unaligned"},
    "hip": {"tt.divisibility": "unaligned", "tt.pointer_range": "large"},
}


def _tool(name: str) -> str:
    return os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin", name)


def fingerprint(target: str, launch: Launch) -> str:
    """Of all that decides the machine code, and what it is held to."""
    decides = (
        launch.source.hash(),
        DEVICES[target],
        launch.num_warps,
        launch.num_stages,
        triton.__version__,
        hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    )
    return hashlib.sha256(repr(decides).encode()).hexdigest()[:24]


def unproven() -> Callable[[str, Launch], bool]:
    """Whether a test has to compile a launch: if it is not known, or in the sample."""
    known = set(PROVEN.read_text().split()) if PROVEN.exists() else set()
    return lambda target, one: fingerprint(target, one) not in known or random.random() < _SAMPLE


def compile_launch(target: str, module: str, kernel: str, label: str, *rest: object) -> Result:
    """In a process of the pool, to which a kernel travels by its name."""
    device = DEVICES[target]
    launch = Launch(getattr(importlib.import_module(module), kernel), (), *rest)
    compiled = triton.compile(
        launch.source,
        target=recorder.target_of(device),
        options={"num_warps": launch.num_warps, "num_stages": launch.num_stages},
    )
    if device.backend == "cuda":
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            code = _run(_tool("nvdisasm"), "-c", "-ndf", file.name)  # no dataflow: not printed
            usage = _run(_tool("cuobjdump"), "-res-usage", file.name)
        registers = _number(r"REG:(\d+)", usage)
        spills = _number(r"STACK:(\d+)", usage) + _number(r"LOCAL:(\d+)", usage)
        spills += len(re.findall(r"\b(?:STL|LDL)\b", code))
        instructions = len(
            re.findall(r"^\s+(?:/\*\w+\*/\s+)?(?:@!?U?P\w+ )?[A-Z][A-Z0-9.]+.*;", code, re.M)
        )
    else:
        code = compiled.asm["amdgcn"]
        registers = _number(r"\.vgpr_count:\s*(\d+)", code)
        spills = _number(r"\.vgpr_spill_count:\s*(\d+)", code)
        spills += _number(r"\.sgpr_spill_count:\s*(\d+)", code)
        spills += _number(r"\.private_segment_fixed_size:\s*(\d+)", code)
        instructions = len(re.findall(r"^\t[vsdgb]\w+ ", code, re.M))
    return Result(
        target,
        kernel,
        label,
        registers,
        spills,
        compiled.metadata.shared,
        tuple(sorted(set(re.findall(TENSOR_CORES[target], code)))),
        len(re.findall(WIDE_LOADS[device.backend], code)),
        instructions,
        "tt.dot" in compiled.asm["ttir"],
        launch.constants.get("VEC", 1) > 1 and kernel not in NARROW,
    )


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    assert match, f"{pattern} not found"
    return int(match.group(1))


def compile_all(
    targets: Iterable[str],
    only: str = "",
    wanted: Callable[[str, Launch], bool] = lambda target, launch: True,
) -> dict[tuple[str, str, str], Result | Exception]:
    """By target, kernel and label what the machine code of each wanted launch holds, compiled by a
    pool of processes."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context) as pool:
        pending = {}
        for target in targets:
            label_of = labels(target)
            for launch in cases(target):
                kernel, label = launch.kernel, label_of[launch.code]
                if only in f"{kernel.__name__} {label}" and wanted(target, launch):
                    key = (target, kernel.__name__, label)
                    named = (target, kernel.__module__, kernel.__name__, label)
                    pending[key] = pool.submit(compile_launch, *named, *launch[2:])
        return {key: future.exception() or future.result() for key, future in pending.items()}


def table(results: Iterable[Result]) -> str:
    lines = [
        "| kernel | configuration | target | registers | shared memory | 128-bit loads "
        "| tensor-core instructions | instructions |",
        "| --- | --- | --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for r in sorted(results, key=lambda r: (r.kernel, r.label, list(DEVICES).index(r.target))):
        lines.append(
            f"| {r.kernel} | {r.label} | {r.target} | {r.registers} | {r.shared} | {r.wide_loads} "
            f"| {' '.join(f'`{i}`' for i in r.tensor_cores)} | {r.instructions} |"
        )
    return "\n".join(lines)


def hot(results: list[Result]) -> str:
    """The tables' few rows: of each kernel that decides a pass's time, what takes the most."""
    lines = [
        "| kernel | launched as | registers | shared memory | tensor-core instructions "
        "| instructions |",
        "| --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for kernel in HOT:
        own = [r for r in results if (r.target, r.kernel) == (MAIN, kernel)]
        most = max(own, key=lambda r: (r.registers, r.shared, r.instructions))
        lines.append(
            f"| `{kernel}` | {len(own)} | {most.registers} | {most.shared} "
            f"| {' '.join(f'`{i}`' for i in most.tensor_cores)} | {most.instructions} |"
        )
    return "\n".join(lines)


HOT = (
    *("column_moments_kernel", "operands_kernel", "gram_kernel", "vicreg_backward_kernel"),
    *("standardize_kernel", "product_kernel", "barlow_twins_rows_kernel"),
    *("nt_xent_forward_kernel", "nt_xent_weights_kernel"),
    *("sigreg_forward_kernel", "sigreg_weights_kernel"),
    *("class_moments_kernel", "center_filter_kernel", "projection_kernel", "unit_columns_kernel"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile every Triton kernel ahead of time.")
    parser.add_argument("--write", action="store_true", help="write the tables and proven.txt")
    parser.add_argument("--target", choices=DEVICES, action="append", help="default: all")
    parser.add_argument("--only", default="", metavar="TEXT", help="launches whose name has it")
    options = parser.parse_args()
    if options.write and (options.target or options.only):
        parser.error("--write: takes everything, without --target and --only")
    results, faulty = [], 0
    for key, result in compile_all(options.target or DEVICES, options.only).items():
        if isinstance(result, Exception):
            faults = [str(result).strip().splitlines()[-1][:300]]
        else:
            faults = result.faults()
            results.append(result)
        for fault in faults:
            faulty += 1
            print(*key, fault, sep=": ")
    if options.write and not faulty:
        root = Path(__file__).parents[2]
        (root / "build").mkdir(exist_ok=True)
        everything = HEADER.format(version=triton.__version__) + table(results) + "\n"
        (root / "build" / "kernels.md").write_text(everything)
        short = HEADER.format(version=triton.__version__) + SHORT + hot(results) + "\n"
        (root / "docs" / "kernels.md").write_text(short)
        found = {fingerprint(t, launch) for t in DEVICES for launch in cases(t)}
        PROVEN.write_text("\n".join(sorted(found)) + "\n")
    else:
        print(table(results))
    raise SystemExit(1 if faulty else 0)


HEADER = """# What the Triton kernels compile to

`make kernels` writes this page, with triton {version}, and `build/kernels.md` with a row for every
configuration and target. What launchers launch over the shapes of `tests/triton/shapes.py` is
compiled for CUDA 80, 90 and 100 and for HIP gfx942, and held to: no register spills, shared memory
within the target's limit, tensor-core instructions in every product, 128-bit global loads in every
kernel whose rows allow them. For sm90 that is everything that is launched, for the other targets
all of the products and enough of the other kernels to show each value of each argument. Nothing
here was timed. Registers are per thread, shared memory is bytes per program (static and pipelined),
loads and instructions are counted in the listing, not executed.

"""

SHORT = """The kernels that decide a pass's time, on sm90: in how many configurations each is
launched, and what the one with the most registers takes.

"""


if __name__ == "__main__":
    main()
