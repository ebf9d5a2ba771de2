"""``class_moments_update`` of the cpu backend by slices of columns, for labelings that cross.

The bounds are those of every other way: classes that float32 sums around the middle of a column
would not hold to them are found and read again.
"""

import numpy as np
import pytest
import torch

from sslkernels.backends import cpu
from tests.backends.class_moments_checks import COLUMNS, assert_right, moments, same
from tests.inputs import labelled
from tests.isa import DETECTED, LEVELS


def crossed(data):
    """The labels, unions of their classes, and two labelings that cross them."""
    g = torch.Generator().manual_seed(2)
    y = data.labels
    unions = (y // 5).masked_fill(y < 0, -100)
    random = torch.randint(data.num_classes, y.shape, generator=g)
    return torch.stack([y, unions, random, torch.randint(40, y.shape, generator=g)])


def in_columns(data, z, rows):
    states = moments(cpu, z, rows, [data.num_classes] * len(rows))
    for state, row in zip(states, rows, strict=True):
        assert_right(state, z, row)
    return states


@pytest.mark.parametrize(
    "dtype, separation",
    [(torch.float32, s) for s in (0.0, 1.0, 3.0, 1e5)]
    + [(dtype, s) for dtype in (torch.float16, torch.bfloat16) for s in (1.0, 30.0)],
    ids=str,
)
def test_columns(dtype, separation):
    """From classes that coincide to classes so tight that they are left to a gather."""
    data = labelled(**COLUMNS, dtype=dtype, ignored=0.1, separation=separation)
    rows = crossed(data)
    together = in_columns(data, data.z, rows)
    (alone,) = moments(cpu, data.z, rows[2], [data.num_classes])
    assert not torch.equal(together[2][2], alone[2])  # another order of additions: another way


@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_columns_of_data_far_from_zero(offset):
    data = labelled(**COLUMNS, offset=offset, separation=1.0)
    in_columns(data, data.z, crossed(data))


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e22, 1e37])
def test_columns_beyond_float32(scale):
    data = labelled(**COLUMNS, separation=1.0)
    in_columns(data, (data.z * scale).float(), crossed(data))


def test_columns_with_constants_outliers_and_small_classes():
    data = labelled(**COLUMNS, separation=1.0)
    rows = crossed(data)
    rows[0, torch.nonzero(rows[0] == 9)[1:]] = 8  # a singleton
    rows[0, torch.nonzero(rows[0] == 7)[3:]] = 8
    z = data.z.clone()
    z[:, 5] = 7.1
    z[:, 6] = z[:, 6].relu()
    z[rows[0] == 6] = data.z[0]  # equal rows
    z[::997] += 1e6
    counts, _, m2 = in_columns(data, z, rows)[0]
    assert counts[9] == 1 and m2[9] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 12_345])
def test_bad_rows_poison_their_classes_only_in_columns(row, bad):
    """Row 0 is among those that the shift is taken from."""
    data = labelled(**COLUMNS, separation=1.0)
    rows = crossed(data)
    clean = moments(cpu, data.z, rows, [data.num_classes] * len(rows))
    z = data.z.clone()
    z[row, 2] = bad
    states = moments(cpu, z, rows, [data.num_classes] * len(rows))
    for (_, mean, m2), (_, clean_mean, clean_m2), labels in zip(states, clean, rows, strict=True):
        c = labels[row]
        assert not torch.isfinite(mean[c, 2]) and torch.isnan(m2[c])
        mean[c], m2[c] = clean_mean[c], clean_m2[c]
        torch.testing.assert_close(m2, clean_m2, rtol=1e-6, atol=0)
        torch.testing.assert_close(mean, clean_mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("level", LEVELS[:3])  # columns know no others
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_columns_of_every_instruction_set(isa_limit, level, dtype):
    if level not in DETECTED:
        pytest.skip(f"this machine has no {level}")
    isa_limit(level)
    data = labelled(**COLUMNS, dtype=dtype, offset=100.0, separation=1.0)
    in_columns(data, data.z, crossed(data))


@pytest.mark.parametrize(
    "n, d", [(65_535, 33), (65_536, 33), (65_537, 17), (65_537, 32), (65_537, 96), (65_537, 129)]
)
def test_columns_end_anywhere(n, d):
    """About the edges of slices."""
    data = labelled(n=n, d=d, num_classes=40, ignored=0.3, separation=1.0)
    in_columns(data, data.z, crossed(data))


def test_few_rows_share_one_read_as_well():
    """One slice."""
    data = labelled(n=20_003, d=96, num_classes=40, separation=1.0)
    rows = crossed(data)
    together = in_columns(data, data.z, rows)
    (alone,) = moments(cpu, data.z, rows[2], [data.num_classes])
    assert not torch.equal(together[2][2], alone[2])


def test_a_class_of_many_rows_and_empty_ones():
    """In float32 no more than 64 rows add up."""
    data = labelled(**COLUMNS, separation=0.0)
    rows = crossed(data)
    rows[0] = torch.where(torch.arange(data.z.shape[0]) % 3 == 0, 59, 7)
    rows[2, :20_000] = -100  # rows to skip
    in_columns(data, data.z + 3.0, rows)


def test_columns_do_not_depend_on_threads(threads):
    data = labelled(**COLUMNS, separation=1.0)
    rows = crossed(data)
    found = []
    for count in (1, 3, 4):
        threads(count)
        found.append(moments(cpu, data.z, rows, [data.num_classes] * len(rows)))
    assert same(found[0], found[1]) and same(found[0], found[2])
