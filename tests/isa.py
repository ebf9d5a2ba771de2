"""The instruction sets that CPU kernels are built for, and those that this machine runs."""

from sslkernels.backends.cpu import _C

LEVELS = ("portable", "avx2", "avx512", "avx512bf16", "amx")
DETECTED = tuple(_C.available_isas())
WIDTHS = tuple(isa for isa in DETECTED if isa not in ("avx512bf16", "amx"))  # of most kernels
