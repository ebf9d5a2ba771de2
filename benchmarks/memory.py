"""Peak memory of one contender beyond its input, measured in a process of its own (Linux).

``python -m benchmarks.memory WORKLOAD CONTENDER`` prints bytes. The kernel's high-water mark is
reset after the data are made and the job has run once on them, so that libraries, thread stacks
and compiled code do not count.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from benchmarks.cpu import WORKLOADS


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def main(workload: str, contender: str) -> None:
    case = next(w for w in WORKLOADS if w.name == workload).build()
    job = case.contenders[contender]
    job()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    result = job()
    print(_status("VmHWM") - before)
    del result


if __name__ == "__main__":
    main(*sys.argv[1:])
