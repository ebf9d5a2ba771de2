"""The pooled scatter matrix: held to residuals around float64 class means."""

import itertools

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

import sslkernels as ssk
from sslkernels import reference
from tests import forked
from tests.inputs import Labelled, labelled, labelled_inputs

WORLD = 2


def residuals(data: Labelled, labels=None, num_classes=None) -> np.ndarray:
    labels = data.labels.numpy() if labels is None else labels.numpy()
    m = reference.class_moments(data.exact(), labels, num_classes or data.num_classes)
    used = labels != -100
    return data.exact()[used] - m.means[labels[used]]


def assert_scatter(got: ssk.PooledScatter, want: np.ndarray, data: Labelled) -> None:
    """Relative to the trace. A class mean that float32 differences moved by a rounding of the
    spread moves the scatter by that rounding squared, and in a merge by the rounding itself."""
    eps = np.finfo(np.float64 if data.z.dtype == torch.float64 else np.float32).eps
    z = data.exact()
    spread = np.square(z - z.mean(0)).sum() if len(z) else 0.0
    slack = 4 * eps * spread + 1e-15 * len(z) * np.abs(z).max(initial=0.0) * np.sqrt(spread)
    matrix = got.matrix.numpy()
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix, want.T @ want, rtol=0, atol=slack + 1e-300)


@settings(max_examples=50, deadline=None)
@given(
    data=labelled_inputs(),
    cuts=st.lists(st.integers(0, 70), max_size=3),
    seed=st.integers(0, 1000),
    coarse=st.integers(1, 12),
)
def test_updates_merges_and_coarsening_equal_the_whole(data, cuts, seed, coarse):
    edges = [0, *sorted(min(c, len(data.z)) for c in cuts), len(data.z)]
    parts = [ssk.PooledScatter.empty(data.num_classes, data.z.shape[1]) for _ in range(2)]
    for k, (a, b) in enumerate(itertools.pairwise(edges)):
        parts[k % 2].update(data.z[a:b], data.labels[a:b])
    s = parts[0].merge(parts[1])
    assert_scatter(s, residuals(data), data)
    g = torch.Generator().manual_seed(seed)
    parents = torch.randint(coarse, (data.num_classes,), generator=g)
    labels = torch.where(data.labels >= 0, parents[data.labels.clamp(min=0)], data.labels)
    assert_scatter(s.coarsen(parents, coarse), residuals(data, labels, coarse), data)
    one = torch.where(data.labels >= 0, 0, data.labels)
    assert_scatter(s.total(), residuals(data, one, 1), data)


@settings(max_examples=50, deadline=None)
@given(data=labelled_inputs(), other=st.integers(1, 6), seed=st.integers(0, 9))
def test_within_other_classes_of_the_same_rows(data, other, seed):
    used = data.labels != -100
    data = Labelled(data.z[used], data.labels[used], data.num_classes)
    again = torch.from_numpy(np.random.default_rng(seed).integers(0, other, len(data.z)))
    scatter = ssk.PooledScatter.empty(data.num_classes, data.z.shape[1], dtype=torch.float64)
    scatter.update(data.z, data.labels)
    m = ssk.class_moments(data.z, again, other)
    assert_scatter(scatter.within(m), residuals(data, again, other), data)


def test_within_takes_moments_of_the_same_rows():
    data = labelled(50, 6, 3)
    scatter = ssk.PooledScatter.empty(3, 6).update(data.z, data.labels)
    with pytest.raises(ValueError, match=r"m: expected moments of the \d+ rows of 6 columns"):
        scatter.within(ssk.class_moments(data.z[:20], data.labels[:20], 3))


def test_backends_agree():
    data = labelled(90, 37, 5, offset=1e4)
    whole = ssk.PooledScatter.empty(5, 37).update(data.z, data.labels).matrix
    with ssk.use_backend("torch"):
        dense = ssk.PooledScatter.empty(5, 37).update(data.z, data.labels).matrix
    torch.testing.assert_close(dense, whole)


def test_one_class_needs_no_labels():
    z = np.random.default_rng(0).normal(size=(50, 4))
    s = ssk.PooledScatter.empty(1, 4, dtype=torch.float64).update(z[:20]).update(z[20:])
    np.testing.assert_allclose(s.covariance, np.cov(z.T, bias=True), rtol=1e-12)
    assert s.num_rows == 50
    assert ssk.PooledScatter.empty(1, 4).covariance.isnan().all()


def test_a_bad_label_changes_nothing():
    data = labelled(20, 3, 2)
    s = ssk.PooledScatter.empty(2, 3).update(data.z, data.labels)
    before = s.state_dict()
    with pytest.raises(ValueError, match="labels: row 4 holds 7, outside"):
        s.update(data.z, data.labels.index_fill(0, torch.tensor([4, 9]), 7))
    for name, tensor in s.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_bad_arguments():
    s = ssk.PooledScatter.empty(2, 3)
    with pytest.raises(ValueError, match="labels: needed for 2 classes"):
        s.update(torch.zeros(4, 3))
    with pytest.raises(
        ValueError, match=r"z: expected 3 columns to match the centers, got \[4, 2\]"
    ):
        s.update(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(TypeError, match="other: expected PooledScatter"):
        s.merge(s.moments)
    with pytest.raises(ValueError, match="other: expected 2 classes"):
        s.merge(ssk.PooledScatter.empty(3, 3))
    with pytest.raises(ValueError, match="state: lacks 'scatter'"):
        s.load_state_dict(s.moments.state_dict())


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD
    )
    torch.set_num_threads(1)
    data = labelled(120, 5, 7, offset=1e4, ignored=0.1)
    mine = slice(rank * 70, 70 + rank * 50)
    s = ssk.PooledScatter.empty(7, 5).update(data.z[mine], data.labels[mine]).all_reduce()
    m = ssk.class_moments(data.z, data.labels, 7)
    second = ssk.NeuralCollapsePass(m).update(data.z[mine], data.labels[mine]).all_reduce()
    unit = ssk.NormalizedMoments.empty(5).update(data.z[mine]).all_reduce()
    torch.save((s.state_dict(), second.compute().nc1, unit.std), f"{folder}/{rank}.pt")
    dist.barrier()  # Gloo may abort a rank that leaves before the others are done
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")
def test_ranks_agree_with_one_process(tmp_path):
    forked.calls(_rank, WORLD, str(tmp_path))
    data = labelled(120, 5, 7, offset=1e4, ignored=0.1)
    saved = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]
    (first, nc1, std), (second, *same) = saved
    assert [nc1, std] == same
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
    s = ssk.PooledScatter.empty(7, 5).load_state_dict(first)
    assert_scatter(s, residuals(data), data)
    torch.testing.assert_close(nc1, ssk.neural_collapse(s).nc1, rtol=1e-5, atol=0)
    torch.testing.assert_close(std, ssk.normalized_std(data.z), rtol=1e-9, atol=0)
