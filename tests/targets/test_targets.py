import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sslkernels import targets


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 9))
def test_random_labels_have_classes_of_equal_size(rows, classes, seed):
    labels = targets.random_labels(rows, classes, seed=seed)
    counts = torch.bincount(labels, minlength=classes)
    assert len(counts) == classes and counts.max() - counts.min() <= 1
    assert torch.equal(labels, targets.random_labels(rows, classes, seed=seed))


@given(st.integers(2, 200), st.integers(2, 9), st.floats(0, 1), st.floats(0, 1))
def test_corruption_hits_exactly_its_share_and_is_nested(rows, classes, a, b):
    labels = torch.arange(rows) % classes
    low, high = sorted((a, b))
    some, more = (targets.corrupted(labels, rate, num_classes=classes) for rate in (low, high))
    assert int((some != labels).sum()) == round(low * rows)
    assert int((more != labels).sum()) == round(high * rows)
    moved = some != labels
    assert torch.equal(some[moved], more[moved])
    assert int(more.min()) >= 0 and int(more.max()) < classes


def test_corrupted_labels_are_uniform_among_the_other_classes():
    labels = torch.zeros(30000, dtype=torch.int64)
    counts = torch.bincount(targets.corrupted(labels, 1.0, num_classes=4), minlength=4)
    assert counts[0] == 0
    # 10,000 each expected; a standard deviation is 82, and the seed is fixed.
    assert (counts[1:] - 10000).abs().max() < 5 * 82


def test_superclasses_and_samples():
    labels = torch.tensor([0, 2, -100, 1])
    assert targets.superclasses(labels, [1, 1, 0]).tolist() == [1, 0, -100, 1]
    assert targets.sample_labels(2, 3).tolist() == [0, 1, 0, 1, 0, 1]


def test_clusters_find_what_is_apart():
    labels = torch.arange(60) % 3
    z = 10 * torch.eye(3)[labels] + torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    found = targets.clusters(z, 3)
    assert len(torch.unique(torch.stack([found, labels]), dim=1).T) == 3


def test_supervised_stages_go_from_random_to_semantic():
    torch.manual_seed(0)
    labels = torch.arange(120) % 4
    inputs = torch.eye(4)[labels] + 0.1 * torch.randn(120, 4)
    before = torch.get_rng_state()
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))
    torch.set_rng_state(before)
    found = targets.supervised_stages(
        model, inputs, labels, stages=(0, 300), test_inputs=inputs[:7], batch_rows=30,
        learning_rate=0.02,
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before)
    assert found.agreement[0] < 0.7 and found.agreement[300] == 1.0
    assert torch.bincount(found.train[0], minlength=4).max() < 100  # not one class for all
    assert torch.equal(found.train[300][:7], found.test[300])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: targets.corrupted(torch.tensor([0, 1]), 1.5), r"rate: expected a share"),
        (lambda: targets.corrupted(torch.tensor([0, 0]), 0.5), "two classes at least"),
        (lambda: targets.corrupted(torch.tensor([0.0, 1.0]), 0.5), "labels: expected integers"),
        (lambda: targets.superclasses(torch.tensor([3]), [0, 1]), "one parent each"),
        (lambda: targets.clusters(torch.zeros(2, 2), 3), "num_clusters: expected at most 2"),
        (
            lambda: targets.supervised_stages(
                nn.Linear(2, 2), torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), stages=(3, 3)
            ),
            "stages: expected ascending",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
