"""The instruction sets that CPU kernels are built for, and those that this machine runs."""

from sslkernels.backends.cpu import _C

LEVELS = ("portable", "avx2", "avx512", "avx512bf16", "amx")
DETECTED = LEVELS[: LEVELS.index(_C.detected_isa()) + 1]
WIDTHS = DETECTED[:3]  # all that kernels without bf16 products are built for
