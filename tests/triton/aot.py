"""Compiles every kernel ahead of time for targets that are not in this machine, and reads the
machine code.

A kernel module in ``sslkernels/backends/triton`` takes part by defining::

    def aot_cases(device: launch.Device) -> Iterator[launch.AotCase]: ...

which yields every configuration that its launcher can pick. All of them are compiled for MAIN. For
the other targets, so are the products; of the other kernels, whose code hardly depends on the
target, enough to show every value of every argument.

``device`` is one of DEVICES below; the cases come from the functions of ``tiles.py`` and
``class_tiles.py`` that the launcher calls, so that what is proven is what runs. Pointers are
compiled as 16-byte aligned, as torch allocates them. ``kind`` says what the machine code must
contain: "product" tensor-core instructions, "streaming" 128-bit global loads, "other" neither. No
kernel may spill, and none may take more shared memory than the target has.

``python -m tests.triton.aot --write docs/kernels.md`` writes the table, and beside this file
``proven.txt``: a fingerprint of each thing that was compiled and found without fault. The same
source, configuration, target and version of Triton give the same code, so the tests compile what
is not in there, and of the rest a sample that is drawn anew each time.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import importlib
import itertools
import multiprocessing
import os
import pkgutil
import random
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sslkernels.backends.triton.core.launch import AotCase, Device

package = importlib.import_module("sslkernels.backends.triton")

Key = tuple[str, str, str]  # target, kernel, label
PROVEN = Path(__file__).with_name("proven.txt")
_SAMPLE = 0.02  # of what is proven

# Shared memory that one program may use: CUDA programming guide, compute capabilities (163, 227 and
# 227 KB); CDNA3 instruction set architecture (64 KB of LDS).
DEVICES = {
    "sm80": Device("cuda", 80, 32, 108, 163 * 1024),
    "sm90": Device("cuda", 90, 32, 132, 227 * 1024),
    "sm100": Device("cuda", 100, 32, 148, 227 * 1024),
    "gfx942": Device("hip", "gfx942", 64, 304, 64 * 1024),
}

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


class Result(NamedTuple):
    target: str
    kernel: str
    label: str
    kind: str
    registers: int
    spills: int  # bytes of stack, local-memory instructions or spilled registers: all must be 0
    shared: int
    tensor_cores: tuple[str, ...]  # the distinct instructions
    wide_loads: int
    instructions: int

    def faults(self) -> list[str]:
        found = []
        if self.spills:
            found.append(f"spills {self.spills}")
        if self.shared > DEVICES[self.target].shared_memory:
            found.append(f"takes {self.shared} bytes of shared memory")
        if self.kind == "product" and not self.tensor_cores:
            found.append("has no tensor-core instruction")
        if self.kind == "streaming" and not self.wide_loads:
            found.append("has no 128-bit global load")
        return found


def modules() -> list[str]:
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return sorted(module.name for module in found)


def cases(target: str) -> Iterator[tuple[str, int, AotCase]]:
    """What to compile for a target, with the module and index by which a worker finds it again."""
    shown: set[tuple[Any, ...]] = set()
    for name in modules():
        module = importlib.import_module(name)
        declare = getattr(module, "aot_cases", None)
        for index, case in enumerate(declare(DEVICES[target]) if declare else ()):
            values = itertools.chain(case.signature.items(), case.constexprs.items())
            shows = {(case.kernel, argument, value) for argument, value in values}
            if target == MAIN or case.kind == "product" or not shows <= shown:
                shown |= shows
                yield name, index, case


def _tool(name: str) -> str:
    return os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin", name)


def _source(case: AotCase) -> ASTSource:
    names = case.kernel.arg_names
    missing = set(names) ^ (set(case.signature) | set(case.constexprs))
    assert not missing, f"{case.kernel.__name__} {case.label}: arguments {sorted(missing)}"
    signature = {n: case.signature.get(n, "constexpr") for n in names}
    aligned = [["tt.divisibility", 16]]
    attrs = {}
    for i, name in enumerate(names):
        kind = signature[name]
        if isinstance(kind, tuple):
            attrs |= {(i, j): aligned for j, k in enumerate(kind) if k.startswith("*")}
        elif kind.startswith("*"):
            attrs[(i,)] = aligned
    return ASTSource(case.kernel, signature, constexprs=dict(case.constexprs), attrs=attrs)


def fingerprint(target: str, case: AotCase) -> str:
    """Of all that decides the machine code, and what it is held to."""
    decides = (
        _source(case).hash(),
        DEVICES[target],
        case.kind,
        case.num_warps,
        case.num_stages,
        triton.__version__,
        hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    )
    return hashlib.sha256(repr(decides).encode()).hexdigest()[:24]


def unproven() -> Callable[[str, AotCase], bool]:
    """Whether a test has to compile a case: if it is not known, or in the sample."""
    known = set(PROVEN.read_text().split()) if PROVEN.exists() else set()
    return lambda target, case: fingerprint(target, case) not in known or random.random() < _SAMPLE


def compile_case(target: str, module: str, index: int) -> Result:
    device = DEVICES[target]
    case = next(c for m, i, c in cases(target) if (m, i) == (module, index))
    compiled = triton.compile(
        _source(case),
        target=GPUTarget(device.backend, device.arch, device.warp_size),
        options={"num_warps": case.num_warps, "num_stages": case.num_stages},
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
        case.kernel.__name__,
        case.label,
        case.kind,
        registers,
        spills,
        compiled.metadata.shared,
        tuple(sorted(set(re.findall(TENSOR_CORES[target], code)))),
        len(re.findall(WIDE_LOADS[device.backend], code)),
        instructions,
    )


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    assert match, f"{pattern} not found"
    return int(match.group(1))


def compile_all(
    targets: list[str],
    only: str = "",
    wanted: Callable[[str, AotCase], bool] = lambda target, case: True,
) -> dict[Key, Result | Exception]:
    """What the machine code of each wanted case holds, compiled by a pool of processes."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        pending = {
            (target, case.kernel.__name__, case.label): pool.submit(
                compile_case, target, module, index
            )
            for target in targets
            for module, index, case in cases(target)
            if only in f"{module} {case.kernel.__name__} {case.label}" and wanted(target, case)
        }
        return {key: future.exception() or future.result() for key, future in pending.items()}


def table(results: list[Result]) -> str:
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile every Triton kernel ahead of time.")
    parser.add_argument("--write", metavar="FILE", help="write the table to this Markdown file")
    parser.add_argument("--target", choices=DEVICES, action="append", help="default: all")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains it")
    options = parser.parse_args()
    if options.write and (options.target or options.only):
        parser.error("--write: takes the whole table, without --target and --only")
    results, faulty = [], 0
    for key, result in compile_all(options.target or list(DEVICES), options.only).items():
        faults = (
            [str(result).strip().splitlines()[-1][:300]]
            if isinstance(result, Exception)
            else result.faults()
        )
        if not isinstance(result, Exception):
            results.append(result)
        for fault in faults:
            faulty += 1
            print(*key, fault, sep=": ")
    text = table(results)
    if options.write and not faulty:
        Path(options.write).write_text(HEADER.format(version=triton.__version__) + text + "\n")
        found = {fingerprint(t, case) for t in DEVICES for _, _, case in cases(t)}
        PROVEN.write_text("\n".join(sorted(found)) + "\n")
    else:
        print(text)
    raise SystemExit(1 if faulty else 0)


HEADER = """# What the Triton kernels compile to

Generated by `python -m tests.triton.aot --write docs/kernels.md` with triton {version}; the tests
compile the same configurations, those that have changed since and a sample of the others, and hold
each to: no register spills, shared memory within the target's limit, tensor-core instructions in
every product and 128-bit global loads in every streaming kernel. For sm90 these are all that is
launched, for the other targets all of the products and enough of the other kernels to show each
value of each argument. Nothing here was timed. Registers are per thread, shared memory is bytes per
program (static and pipelined), loads and instructions are counted in the listing, not executed.

"""


if __name__ == "__main__":
    main()
