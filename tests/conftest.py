import os

# Before the extension loads: scratch that a kernel reads before it writes it is NaN.
os.environ.setdefault("SSLKERNELS_POISON", "1")
