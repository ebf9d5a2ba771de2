"""What ``sslkernels info`` says of the machine; it needs nothing but torch."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from sslkernels import backends
from sslkernels.report.files import versions

INSTALL = "pip install 'sslkernels[cli]'"


def facts() -> dict[str, Any]:
    """What a bug report or a table of timings should say of the machine."""
    from sslkernels.backends import cpu

    try:
        triton: str | None = version("triton")
    except PackageNotFoundError:
        triton = None
    return {
        "versions": {**versions(), "triton": triton, "cuda": torch.version.cuda},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": cpu_name(),
            "instruction_set": cpu._C.active_isa() if cpu._C else None,
            "instruction_set_detected": cpu._C.detected_isa() if cpu._C else None,
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "backends": {name: status._asdict() for name, status in backends().items()},
    }


def plain(missing: Sequence[str] = ()) -> Iterator[str]:
    """The same as lines of text, and what the other commands lack."""
    known = facts()
    machine = known["machine"]
    active, detected = machine["instruction_set"], machine["instruction_set_detected"]
    limited = "" if active == detected else f" (limited; the CPU has {detected})"
    rows = {
        **known["versions"],
        "": "",
        "system": machine["system"],
        "cpu": machine["cpu"],
        "instructions": active and active + limited,
        "threads": machine["threads"],
        "gpus": ", ".join(machine["gpus"]),
    }
    for name, value in rows.items():
        yield f"{name:14}{(value or 'none') if name else ''}".rstrip()
    yield ""
    for name, status in known["backends"].items():
        yield f"{name:14}{'usable' if status['usable'] else 'unusable'}: {status['reason']}"
    if missing:
        yield f"{'commands':14}report, demo, study and bench need {', '.join(missing)}: {INSTALL}"


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
