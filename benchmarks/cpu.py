"""Every workload that runs on the CPU."""

from benchmarks import (
    barlow_twins,
    class_moments,
    class_projections,
    evaluate,
    mean_pairs,
    nearest_center,
    nt_xent,
    scatter,
    sigreg,
    vicreg,
)

WORKLOADS = [
    *vicreg.WORKLOADS,
    *class_moments.WORKLOADS,
    *mean_pairs.WORKLOADS,
    *scatter.WORKLOADS,
    *nearest_center.WORKLOADS,
    *class_projections.WORKLOADS,
    *barlow_twins.WORKLOADS,
    *nt_xent.WORKLOADS,
    *sigreg.WORKLOADS,
    *evaluate.WORKLOADS,
]
