"""Side-by-side benchmarks: workloads, their rivals, and the error of each result."""
