"""What ``evaluate`` should say, and what it says, as ``{(labeling, split, statistic): value}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from sslkernels import reference
from sslkernels.reference.evaluate import Table


def expected(
    z: Any,
    labels: Mapping[str, np.ndarray] | None = None,
    z_test: Any = None,
    labels_test: Mapping[str, np.ndarray] | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    view: Any = None,
    classifiers: Mapping[str, tuple[Any, Any]] | None = None,
    **options: Any,
) -> Table:
    """The reference, with a classifier as a pair."""
    pairs = (classifiers or {}).items()
    return reference.evaluate(
        z,
        labels,
        sizes,
        z_test=z_test,
        labels_test=labels_test,
        z_view=view,
        weight={name: weight for name, (weight, _) in pairs},
        bias={name: bias for name, (_, bias) in pairs},
        **options,
    )


def table(evaluation: Any, embeddings: str = "") -> Table:
    """The rows of one set of embeddings, of an Evaluation or of report.json."""
    rows = evaluation["rows"] if isinstance(evaluation, dict) else evaluation.rows()
    return {
        (row["labeling"], row["split"], row["statistic"]): (
            np.nan if row["value"] is None else row["value"]
        )
        for row in rows
        if row["embeddings"] == embeddings
    }


def assert_equal(found: Table, want: Table, *, rel: float = 2e-6, abs: float = 1e-9) -> None:
    assert found.keys() == want.keys(), found.keys() ^ want.keys()
    wrong = {
        key: (found[key], value)
        for key, value in want.items()
        if found[key] != pytest.approx(value, rel=rel, abs=abs, nan_ok=True)
    }
    assert not wrong
