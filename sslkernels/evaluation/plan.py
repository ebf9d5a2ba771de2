"""What a call of ``evaluate`` comes to: arguments checked, data opened, nothing read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sslkernels.evaluation.jobs import Job, device_of, hashed, open_jobs
from sslkernels.evaluation.labelings import digest
from sslkernels.evaluation.settings import Settings, check_classifiers, classifiers


@dataclass(frozen=True)
class Plan:
    """Jobs by name, each with its rows per chunk, and how they are measured."""

    settings: Settings
    jobs: Mapping[str, Job]
    heads: Mapping[str, tuple[Any, Any]]  # classifiers by labeling
    rows: Mapping[str, int]  # per chunk
    device: torch.device

    def facts(self) -> dict[str, Any]:
        """What ranks must have in common, lest the sums of one be added to others of another.

        Paths and times of files are not among it: each rank may have its own copy.
        """
        facts: dict[str, Any] = {
            **self.settings.as_dict(),
            "cdnv_matrix": self.settings.cdnv_matrix,
            "the classifiers": {name: hashed(pair) for name, pair in self.heads.items()},
            "the names of the embeddings": list(self.jobs),
        }
        for name, job in self.jobs.items():
            of = f" of {name}" if name else ""
            facts |= {
                f"the labelings{of}": [item.name for item in job.labelings],
                f"the numbers of classes{of}": [item.num_classes for item in job.labelings],
                f"test rows{of}": [job.test is not None, [item.tested for item in job.labelings]],
                f"a second view{of}": job.view is not None,
                f"streams{of}": [source.private for source in job.sources],
                f"columns and dtype{of}": [(source.dim, source.dtype) for source in job.sources],
            }
            if not job.private:
                facts |= {
                    f"chunk_rows{of}": self.rows[name],
                    f"the rows{of}": [source.rows for source in job.sources],
                    f"the labels{of}": digest(job.labelings),
                }
        return facts

    def run(self) -> dict[str, Any]:
        """What makes a run this run, for its checkpoint."""
        return {
            "inputs": {
                name: {**job.identity(), "chunk_rows": self.rows[name]}
                for name, job in self.jobs.items()
            },
            "settings": self.settings.as_dict(),
            "classifiers": {name: hashed(pair) for name, pair in self.heads.items()},
            "cdnv_matrix": self.settings.cdnv_matrix,
        }


def planned(given: Mapping[str, Any], ranks: int) -> Plan:
    """The plan of a call of ``evaluate`` with these arguments, on one of ``ranks``; nothing here
    waits for another.

    Raises:
        DataError, ValueError, TypeError: as :func:`sslkernels.evaluate`.
    """
    settings = Settings.checked(given)
    where = device_of(given["device"], given["z"])
    jobs = open_jobs(given, settings, ranks)
    names = [item.name for item in next(iter(jobs.values())).labelings]
    heads = classifiers(given["weight"], given["bias"], names, where)
    for job in jobs.values():
        check_classifiers(heads, job.labelings, job.train.dim)
    for option, wanted in (
        ("checkpoint", settings.checkpoint is not None),
        ("few_shot", settings.few_shot),
    ):
        if wanted and any(job.streamed for job in jobs.values()):
            raise ValueError(
                f"{option}: expected files or arrays, whose rows can be found again; "
                "spool keeps a one-shot iterator in files"
            )
    if settings.few_shot and ranks > 1 and any(job.private for job in jobs.values()):
        raise ValueError("few_shot: over several ranks takes files or arrays that all ranks see")
    rows = {
        name: settings.chunk_rows or job.chunk_rows(settings.chunk_bytes, ranks)
        for name, job in jobs.items()
    }
    return Plan(settings, jobs, heads, rows, where)
