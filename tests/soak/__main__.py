"""``python -m tests.soak``: draw cases until the time is up; exit code 1 if one is wrong."""

from __future__ import annotations

import tests.conftest  # noqa: F401, isort: skip  (first: poisons scratch before the extension loads)

import argparse
import random
import sys
import time

from tests.isa import DETECTED
from tests.soak.ranks import Pair
from tests.soak.run import NAMES, Options, one


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="of the first case; by default that of the clock")
    parser.add_argument("--case", type=int, help="one case, by its seed")
    parser.add_argument(
        "--only",
        action="append",
        choices=sorted(NAMES),
        metavar="NAME",
        help="cases of this name (repeatable)",
    )
    parser.add_argument("--isa", choices=DETECTED, help="of the CPU kernels; drawn if left out")
    parser.add_argument("--threads", type=int, help="of torch; drawn if left out")
    parser.add_argument("--backend", choices=("cpu", "torch", "triton"))
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the largest sizes: 0.02 for the interpreter"
    )
    args = parser.parse_args()
    names = args.only or NAMES
    first = args.case if args.case is not None else args.seed
    seed = int(time.time() * 1000) % 2**31 if first is None else first
    end = time.monotonic() + (args.seconds if args.case is None else 0)
    done: dict[str, int] = dict.fromkeys(names, 0)
    refused = wrong = 0
    slowest = (0.0, "")
    try:
        while True:
            luck = random.Random(f"options of {seed}")
            options = Options(
                luck.choice(names),
                seed,
                args.backend,
                args.isa or luck.choice(DETECTED),
                args.threads or luck.choice((1, 1, 2, 3, 5)),
                args.scale,
            )
            started = time.monotonic()
            found = one(options)
            slowest = max(slowest, (time.monotonic() - started, options.line()))
            done[options.name] += 1
            refused += found == "refused"
            if found and found != "refused":
                wrong += 1
                print(f"{options.line()}  # {found}", flush=True)
            seed += 1
            if time.monotonic() >= end:
                break
    finally:
        Pair.end()
    print(", ".join(f"{count} {name}" for name, count in done.items() if count))
    print(f"{sum(done.values())} cases, {refused} refused, {wrong} wrong")
    print(f"slowest: {slowest[0]:.1f} s, {slowest[1]}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
