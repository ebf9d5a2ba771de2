"""Against pytorch-metric-learning."""

import inspect
import sys

import pytest
import torch

from sslkernels.compat.metric_learning import VICRegLoss
from tests.compat.compare import assert_same, each_input, each_shape, squared_variances, views


@pytest.fixture(scope="module")
def original():
    reason = "nothing to compare with: pip install pytorch-metric-learning"
    return pytest.importorskip("pytorch_metric_learning.losses", reason=reason).VICRegLoss


@each_shape
@each_input
def test_vicreg(original, shape, dtype, offset):
    x, y = views(shape, dtype, offset)
    settings = {"invariance_lambda": 3, "variance_mu": 7, "covariance_v": 0.5, "eps": 1e-2}
    for chosen in ({}, settings):
        ours, theirs = VICRegLoss(**chosen), original(**chosen)
        assert_same(
            lambda x, y, loss=ours: loss(x, ref_emb=y),
            lambda x, y, loss=theirs: loss(x, ref_emb=y),
            x,
            y,
            offset=offset,
            scale=squared_variances(x, y),
        )


def test_one_view(original):
    x, _ = views((9, 12), torch.float64)
    assert_same(
        lambda x, y: VICRegLoss()(x) + 0 * y.sum(),
        lambda x, y: original()(x) + 0 * y.sum(),
        x,
        x,
        scale=squared_variances(x, x),
    )


def test_arguments(original):
    got = list(inspect.signature(VICRegLoss).parameters.values())[:4]
    want = list(inspect.signature(original).parameters.values())[:4]
    assert [(p.name, p.default) for p in got] == [(p.name, p.default) for p in want]
    assert [*inspect.signature(VICRegLoss.forward).parameters] == [
        *inspect.signature(original.forward).parameters
    ]
    VICRegLoss(reducer=None, collect_stats=False)


@pytest.mark.parametrize("name", ["distance", "embedding_regularizer"])
def test_refused_as_by_the_original(original, name):
    for loss in (VICRegLoss, original):
        with pytest.raises(ValueError, match="VICRegLoss cannot use a"):
            loss(**{name: None})


def test_unknown_argument(original):
    for loss in (VICRegLoss, original):
        with pytest.raises(TypeError, match="margin"):
            loss(margin=1.0)


def test_labels_and_tuples_are_refused(original):
    x, y = views((4, 6))
    labels = torch.arange(4)
    for loss in (VICRegLoss(), original()):
        with pytest.raises(ValueError, match="not supported"):
            loss(x, labels, ref_emb=y)
        with pytest.raises(ValueError, match="not supported"):
            loss(x, ref_emb=y, ref_labels=labels)
        with pytest.raises(ValueError, match="not supported"):
            loss(x, indices_tuple=(labels, labels, labels), ref_emb=y)
        with pytest.raises(ValueError):
            loss(x.view(2, 2, 6), ref_emb=y.view(2, 2, 6))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MeanReducer", {}),
        ("SumReducer", {}),
        ("AvgNonZeroReducer", {}),
        ("ThresholdReducer", {"low": 0.1}),
    ],
)
@each_input
def test_reducers(original, name, options, dtype, offset):
    reducers = pytest.importorskip("pytorch_metric_learning.reducers")
    chosen = getattr(reducers, name)(**options)
    x, y = views((16, 8), dtype, offset)
    ours, theirs = (loss(reducer=chosen) for loss in (VICRegLoss, original))
    assert_same(
        lambda x, y: ours(x, ref_emb=y),
        lambda x, y: theirs(x, ref_emb=y),
        x,
        y,
        offset=offset,
        scale=squared_variances(x, y),
    )


def test_reducers_of_all_terms(original):
    reducers = pytest.importorskip("pytorch_metric_learning.reducers")
    x, y = views((16, 8), torch.float64)
    several = reducers.MultipleReducers({"invariance_loss": reducers.SumReducer()})
    want = original(reducer=several)(x, ref_emb=y)
    torch.testing.assert_close(VICRegLoss(reducer=several)(x, ref_emb=y), want)
    got, want = (
        loss(reducer=reducers.DoNothingReducer())(x, ref_emb=y) for loss in (VICRegLoss, original)
    )
    assert got.keys() == want.keys()
    for name, term in want.items():
        assert got[name]["reduction_type"] == term["reduction_type"]
        torch.testing.assert_close(got[name]["losses"], term["losses"])
        torch.testing.assert_close(got[name]["indices"], term["indices"])
    mean = VICRegLoss(reducer=reducers.MeanReducer())(x, ref_emb=y)
    torch.testing.assert_close(mean, VICRegLoss()(x, ref_emb=y))


def test_reducer_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(ImportError, match="pip install pytorch-metric-learning"):
        VICRegLoss(reducer=torch.nn.Identity())


@pytest.mark.parametrize("collect_stats", [None, False, True])
def test_collect_stats(original, collect_stats):
    ours, theirs = (loss(collect_stats=collect_stats) for loss in (VICRegLoss, original))
    assert ours.collect_stats == theirs.collect_stats
    assert not getattr(theirs, "_record_these_stats", [])


def test_errors_name_the_arguments():
    x, _ = views((4, 6))
    for loss in (VICRegLoss(), VICRegLoss(reducer=torch.nn.Identity())):
        with pytest.raises(ValueError, match=r"embeddings: needs at least 2 rows"):
            loss(x[:1], ref_emb=x[:1])
        with pytest.raises(TypeError, match="ref_emb: expected embeddings's dtype float32"):
            loss(x, ref_emb=x.double())
