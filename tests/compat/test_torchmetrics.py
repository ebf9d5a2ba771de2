"""The metrics: the functions' values whatever the batches, and torchmetrics' own machinery."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st

import sslkernels as ssk
from sslkernels import reference
from sslkernels.compat.torchmetrics import CDNV, NCCAccuracy, NeuralCollapse
from tests.compat.launch import on_ranks
from tests.inputs import DTYPES, labelled

C, D = 5, 8
WEIGHT = torch.randn(C, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CENTERS = torch.randn(C, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
METRICS = {
    "CDNV": lambda **options: CDNV(C, D, **options),
    "NeuralCollapse": lambda **options: NeuralCollapse(C, D, weight=WEIGHT, **options),
    "without NC1": lambda **options: NeuralCollapse(C, D, nc1=False, **options),
    "NCCAccuracy": lambda **options: NCCAccuracy(CENTERS, top_k=(1, 3), **options),
}
each_metric = pytest.mark.parametrize("make", METRICS.values(), ids=METRICS.keys())


def close(got, want, rtol=1e-9):
    torch.testing.assert_close(got, want, rtol=rtol, atol=1e-12, equal_nan=True)


def filled(make, data, batches=(20, 33), **options):
    metric = make(**options)
    for z, labels in zip(
        data.z.tensor_split(batches), data.labels.tensor_split(batches), strict=True
    ):
        metric.update(z, labels)
    return metric


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 90), max_size=4).map(sorted),
    dtype=st.sampled_from(DTYPES),
    offset=st.sampled_from([0.0, 100.0]),
    ignored=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 1000),
)
def test_any_batches_equal_the_functions(cuts, dtype, offset, ignored, seed):
    data = labelled(90, D, C, seed=seed, dtype=dtype, offset=offset, ignored=ignored)
    m = ssk.class_moments(data.z.double(), data.labels, C)
    found = ssk.neural_collapse(data.z.double(), data.labels, C, weight=WEIGHT)._asdict()
    del found["nc4"]
    rtol = 1e-9 if dtype == torch.float64 else 1e-5  # float32 sums of short runs of rows
    close(filled(METRICS["CDNV"], data, cuts).compute(), ssk.cdnv(m), rtol)
    close(filled(METRICS["NeuralCollapse"], data, cuts).compute(), found, rtol)
    apart = {name: found[name] for name in ("nc2_norms", "nc2_angles")}
    close(filled(METRICS["without NC1"], data, cuts).compute(), apart, rtol)
    scores = ssk.ncc_scores(data.z, data.labels, CENTERS, top_k=(1, 3))
    assert torch.equal(filled(METRICS["NCCAccuracy"], data, cuts).compute(), scores.top_k)


def test_equals_reference():
    data = labelled(90, D, C, dtype=torch.float64, offset=50.0)
    z, labels = data.z.numpy(), data.labels.numpy()
    want = reference.cdnv(reference.class_moments(z, labels, C))
    assert float(filled(METRICS["CDNV"], data).compute()) == pytest.approx(want, rel=1e-11)
    assert float(filled(lambda: CDNV(C, D, convention="sum"), data).compute()) == pytest.approx(
        2 * want, rel=1e-11
    )
    nc = reference.neural_collapse(z, labels, C, weight=WEIGHT.numpy())
    for name, value in filled(METRICS["NeuralCollapse"], data).compute().items():
        assert float(value) == pytest.approx(getattr(nc, name), rel=1e-9), name


def test_averages_of_accuracy():
    data = labelled(90, D, C, ignored=0.1)
    labels = data.labels.clone()
    labels[labels == 2] = 0  # a class without rows
    scores = ssk.ncc_scores(data.z, labels, CENTERS)
    for average, want in (
        ("micro", scores.top_k[0]),
        ("macro", scores.per_class.nanmean()),
        ("none", scores.per_class),
    ):
        metric = NCCAccuracy(CENTERS, average=average)
        metric.update(data.z, labels)
        close(metric.compute(), want)
    m = ssk.class_moments(data.z, labels, C)  # centers, one of them of an empty class
    metric = NCCAccuracy(m)
    metric.update(data.z, labels)
    assert metric.compute() == ssk.ncc_accuracy(data.z, labels, m)


@each_metric
def test_forward_is_of_the_batch(make):
    data = labelled(90, D, C, dtype=torch.float64)
    metric, batch = make(), slice(0, 40)
    alone = make()
    alone.update(data.z[batch], data.labels[batch])
    close(metric(data.z[batch], data.labels[batch]), alone.compute())
    metric(data.z[40:], data.labels[40:])
    close(metric.compute(), filled(make, data, ()).compute())
    metric.reset()
    fresh = make().metric_state
    assert all(torch.equal(total, fresh[name]) for name, total in metric.metric_state.items())
    close(metric(data.z[batch], data.labels[batch]), alone.compute())


@each_metric
def test_copies_are_apart(make, tmp_path):
    data = labelled(90, D, C, dtype=torch.float64)
    metric = filled(make, data)
    want = metric.compute()
    copies = [metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))]
    torch.save(metric, tmp_path / "metric.pt")
    copies.append(torch.load(tmp_path / "metric.pt", weights_only=False))
    metric.update(data.z, data.labels)
    for other in copies:
        other._computed = None
        close(other.compute(), want)
        other.update(data.z, data.labels)
        close(other.compute(), metric.compute())


@each_metric
def test_state_dict_when_persistent(make):
    data = labelled(90, D, C, dtype=torch.float64)
    metric = filled(make, data)
    assert not metric.state_dict()
    metric.persistent(True)
    assert metric.state_dict().keys() == metric.metric_state.keys()
    again = make()
    again.persistent(True)
    again.load_state_dict(metric.state_dict())
    again.update(data.z, data.labels)
    metric.update(data.z, data.labels)
    close(again.compute(), metric.compute())


@each_metric
def test_merge_state(make):
    data = labelled(90, D, C, dtype=torch.float64)
    first, second = make(), make()
    first.update(data.z[:33], data.labels[:33])
    second.update(data.z[33:], data.labels[33:])
    second.merge_state(first)
    close(second.compute(), filled(make, data).compute())


@each_metric
def test_cast_of_the_model_leaves_the_state(make):
    data = labelled(90, D, C, dtype=torch.float64)
    metric = filled(make, data)
    want = metric.compute()
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), metric)
    for cast in (model.half, model.bfloat16, lambda: model.to(torch.float16), model.double):
        cast()
        metric._computed = None
        close(metric.compute(), want)
    assert model[0].weight.dtype == torch.float64
    model.to("meta")
    assert metric.device.type == "meta"


def test_collection_shares_one_state():
    data = labelled(90, D, C, dtype=torch.float64)
    metrics = torchmetrics.MetricCollection({name: make() for name, make in METRICS.items()})
    for rows in (slice(0, 20), slice(20, 33), slice(33, 90)):
        metrics.update(data.z[rows], data.labels[rows])
    groups = [set(group) for group in metrics.compute_groups.values()]
    assert {"CDNV", "without NC1"} in groups and len(groups) == 3
    got = metrics.compute()
    close(got["CDNV"], filled(METRICS["CDNV"], data).compute())
    close(got["NCCAccuracy"], filled(METRICS["NCCAccuracy"], data).compute())
    close(got["NeuralCollapse_nc1"], filled(METRICS["NeuralCollapse"], data).compute()["nc1"])
    again = metrics.clone(prefix="val/")
    metrics.reset()
    again.update(data.z, data.labels)
    assert {name[:4] for name in again.compute()} == {"val/"}


OPTIONS = {  # of every metric: what tells states apart, and what is for compute alone
    "CDNV": ({"ignore_index": 1}, {"convention": "sum"}),
    "NeuralCollapse": ({"ignore_index": 1}, {}),
    "without NC1": ({"ignore_index": 1}, {"weight": WEIGHT}),
    "NCCAccuracy": ({"ignore_index": 1}, {}),
}


def collected(one, other):
    """Both after two batches: the first too plain to tell them apart."""
    metrics = torchmetrics.MetricCollection({"one": one, "other": other})
    data = labelled(90, D, C, dtype=torch.float64)
    metrics.update(CENTERS[[0, 2]], torch.tensor([0, 2]))
    metrics.update(data.z, data.labels)
    return metrics, data


@pytest.mark.parametrize("name", METRICS)
def test_collection_keeps_other_options_apart(name):
    make, (apart, together) = METRICS[name], OPTIONS[name]
    for options, groups in ((apart, 2), (together, 1)):
        metrics, data = collected(make(), make(**options))
        assert len(metrics.compute_groups) == groups
        alone = make(**options)
        alone.update(CENTERS[[0, 2]], torch.tensor([0, 2]))
        alone.update(data.z, data.labels)
        want = alone.compute()
        got = metrics.compute()
        for key, value in want.items() if isinstance(want, dict) else {"": want}.items():
            close(got[f"other_{key}" if key else "other"], value)


@pytest.mark.parametrize(
    "other", [{"centers": CENTERS + 1e-12}, {"top_k": 3}], ids=["centers", "top_k"]
)
def test_collection_keeps_other_centers_apart(other):
    options = {"centers": CENTERS, "top_k": 1}
    metrics, _ = collected(NCCAccuracy(**options), NCCAccuracy(**(options | other)))
    assert len(metrics.compute_groups) == 2
    same = {"centers": CENTERS.T.contiguous().T, "top_k": (1,)}  # but for its strides
    metrics, _ = collected(NCCAccuracy(**options), NCCAccuracy(**same, average="micro"))
    assert len(metrics.compute_groups) == 1


@each_metric
def test_other_options_do_not_merge(make):
    metric = make()
    with pytest.raises(ValueError, match="metrics with different options"):
        metric.merge_state(make(ignore_index=1).metric_state)


@each_metric
def test_around_a_call(make):
    """The same under another default device, of lazily negated rows, and inside autocast."""
    data = labelled(90, D, C, dtype=torch.float64)
    want = filled(make, data, ()).compute()
    inside, negated = make(), make()
    with torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16):
        inside.update(data.z, data.labels)
        close(inside.compute(), want)
    negated.update(torch._neg_view(-data.z), data.labels)
    close(negated.compute(), want)


@each_metric
def test_script(make):
    """As torchmetrics' own: a model that holds a metric is scripted, without its update."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.metric = torch.nn.Linear(2, 2), make()

        def forward(self, x):
            return self.layer(x)

    torch.jit.script(make())
    model = Model()
    x = torch.randn(3, 2)
    close(torch.jit.script(model)(x), model(x))


def test_tracked_weight():
    data = labelled(90, D, C, dtype=torch.float64)
    layer = torch.nn.Linear(D, C)
    metric = NeuralCollapse(C, D, nc1=False, weight=layer.weight)
    metric.update(data.z, data.labels)
    with torch.no_grad():
        layer.weight.mul_(torch.linspace(1, 2, C)[:, None])
    found = ssk.neural_collapse(data.z, data.labels, C, weight=layer.weight)
    close(metric.compute()["nc3"], found.nc3)
    assert not list(metric.parameters())


@each_metric
def test_bad_label_adds_nothing(make):
    data = labelled(90, D, C, dtype=torch.float64)
    metric = filled(make, data)
    before = {name: total.clone() for name, total in metric.metric_state.items()}
    labels = data.labels.clone()
    labels[7] = C
    with pytest.raises(ValueError, match="labels: row 7 holds 5"):
        metric.update(data.z, labels)
    assert all(torch.equal(metric.metric_state[name], total) for name, total in before.items())
    with pytest.raises(ValueError, match="z: expected 8 columns"):
        metric.update(data.z[:, 1:], data.labels)


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_classes: expected a positive int, got 0"):
        CDNV(0, D)
    with pytest.raises(ValueError, match="convention: expected one of"):
        CDNV(C, D, convention="half")
    with pytest.raises(ValueError, match=r"weight: expected shape \[5, 8\], got \[8, 5\]"):
        NeuralCollapse(C, D, weight=WEIGHT.T)
    with pytest.raises(ValueError, match="average: 'macro' needs top_k=1, got 5"):
        NCCAccuracy(CENTERS, top_k=5, average="macro")
    with pytest.raises(ValueError, match="average: expected one of"):
        NCCAccuracy(CENTERS, average="weighted")
    with pytest.raises(ValueError, match="Unexpected keyword arguments: `dims`"):
        CDNV(C, D, dims=3)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@each_metric
def test_without_data(make):
    value = make().compute()
    for number in value.values() if isinstance(value, dict) else [value]:
        assert number.isnan().all()


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks(ranks):
    on_ranks("tests.compat.torchmetrics_ranks", ranks)


def test_without_torchmetrics():
    code = "import sys; sys.modules['torchmetrics'] = None; import sslkernels.compat.torchmetrics"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError" in done.stderr and "pip install sslkernels[torchmetrics]" in done.stderr
