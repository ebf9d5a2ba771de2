"""Every workload that runs on the CPU."""

from benchmarks import barlow_twins, class_moments, nearest_center, nt_xent, sigreg, vicreg

WORKLOADS = [
    *vicreg.WORKLOADS,
    *class_moments.WORKLOADS,
    *nearest_center.WORKLOADS,
    *barlow_twins.WORKLOADS,
    *nt_xent.WORKLOADS,
    *sigreg.WORKLOADS,
]
