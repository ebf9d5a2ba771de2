"""What ``class_moments_update`` must hold to, and shapes for every way through the rows.

Whatever the offset of the data (eps: float32's, or float64's for float64 input):

* mean: 8 eps times the largest distance of a row of the class from its mean, per column. Of a group
  of 8 rows, differences to the first are summed: 7 roundings of numbers of twice that distance;
* m2: 128 eps of itself. A group's sums of squares round by 13 eps of a sum that may be 8 times its
  scatter, where the first row is the one that lies far out;

beyond what the float64 in which means are kept loses at the data's magnitude (``kept`` below).
"""

import numpy as np
import torch

from sslkernels import reference

# Shapes for the ways through the rows: one segment, many segments (a class has too few rows per
# strip), strips, and slices of columns if there are labelings that cross. Each has a ragged end
# everywhere.
SEGMENT = dict(n=700, d=37, num_classes=11)
SEGMENTS = dict(n=9001, d=130, num_classes=300)
STRIPS = dict(n=66_003, d=67, num_classes=13)
COLUMNS = dict(n=30_003, d=139, num_classes=60)


def empty(sizes, d):
    return [
        (
            torch.zeros(c, dtype=torch.int64),
            torch.zeros(c, d, dtype=torch.float64),
            torch.zeros(c, dtype=torch.float64),
        )
        for c in sizes
    ]


def moments(backend, z, labels, sizes, ignore_index=-100, cuts=None):
    states = empty(sizes, z.shape[1])
    labels = labels.reshape(len(sizes), -1)
    extra = () if cuts is None else (cuts,)  # which only the cpu backend takes
    backend.class_moments_update(z, labels, states, ignore_index, *extra)
    return states


def errors(state, z, labels, ignore_index=-100):
    """Errors of mean and m2 in units of what they are measured in above."""
    exact, labels = z.double().numpy(), labels.numpy()
    ref = reference.class_moments(exact, labels, len(state[0]), ignore_index=ignore_index)
    counts, mean, m2 = (t.numpy() for t in state)
    np.testing.assert_array_equal(counts, ref.counts)
    eps = np.finfo(np.float64 if z.dtype == torch.float64 else np.float32).eps
    filled = ref.counts > 0
    assert not mean[~filled].any() and not m2[~filled].any()
    reach = np.zeros_like(ref.means)
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] != ignore_index]
    rows = exact[order]
    starts = np.searchsorted(labels[order], np.arange(len(filled) + 1))
    for c in np.flatnonzero(filled):
        of_class = rows[starts[c] : starts[c + 1]]
        reach[c] = np.maximum(of_class.max(0) - ref.means[c], ref.means[c] - of_class.min(0))
    kept = 4 * np.finfo(np.float64).eps * np.abs(exact).max(initial=0.0)
    off = np.abs(mean - ref.means)[filled]
    mean_error = (off / (eps * reach[filled] + kept + 1e-300)).max(initial=0.0)
    m2_kept = ref.counts * kept * (reach + kept).sum(1)
    m2_error = (np.abs(m2 - ref.m2) / (eps * ref.m2 + m2_kept + 1e-300)).max(initial=0.0)
    return mean_error, m2_error


def assert_right(state, z, labels, ignore_index=-100):
    mean_error, m2_error = errors(state, z, labels, ignore_index)
    assert mean_error <= 8 and m2_error <= 128


def same(a, b):
    return all(
        torch.equal(x.nan_to_num(nan=1e99), y.nan_to_num(nan=1e99))
        for s, t in zip(a, b, strict=True)
        for x, y in zip(s, t, strict=True)
    )
