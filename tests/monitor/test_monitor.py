"""What a monitor records equals what the public functions say of the same embeddings."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sslkernels as ssk
from sslkernels.monitor import EmbeddingMonitor
from sslkernels.monitor.ridge import RIDGE, Ridge


class Net(nn.Module):
    """Convolutions, normalisation and dropout: things that a careless probe would change."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.body(x).mean((2, 3))))


def problem(rows: int = 90, seed: int = 0) -> tuple[Net, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    labels = torch.arange(rows) % 4
    inputs = torch.randn(rows, 1, 6, 6) + labels[:, None, None, None]
    return Net(), inputs, labels


def outputs(model: Net, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    model.eval()
    with torch.no_grad():
        body = model.body(inputs)
        return {"body": body.mean((2, 3)), "head": model.head(body.mean((2, 3)))}


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(40, 130),
    batch=st.integers(1, 140),
    keep=st.booleans(),
    skipped=st.booleans(),
    seed=st.integers(0, 99),
)
def test_numbers_are_those_of_the_public_functions(rows, batch, keep, skipped, seed):
    model, inputs, labels = problem(rows, seed)
    model, inputs = model.double(), inputs.double()  # convolutions depend on the batch's size
    labels = labels.clone()
    if skipped:
        labels[1] = -100
    monitor = EmbeddingMonitor(
        model,
        ["body", "head"],
        (inputs, {"class": labels}),
        test=(inputs[::2], {"class": labels[::2]}),
        superclasses={"super": [0, 1, 0, 1]},
        batch_rows=batch,
        keep=keep,
    )
    monitor.measure(3)
    parents = torch.tensor([0, 1, 0, 1])
    above = torch.where(labels < 0, -100, parents[labels.clamp(min=0)])
    for layer, z in outputs(model, inputs).items():
        found = ssk.spectrum(z)
        exact = {"rtol": 1e-6, "atol": 1e-9}
        assert monitor.value("rankme", layer=layer) == pytest.approx(float(found.rankme), rel=1e-6)
        variance = float(z.double().var(0, unbiased=False).sum())
        assert monitor.value("variance", layer=layer) == pytest.approx(variance, rel=1e-6)
        for name, values in (("class", labels), ("super", above)):
            m = ssk.class_moments(z, values, 4 if name == "class" else 2)
            u = torch.nn.functional.normalize(z)
            unit = ssk.class_moments(u, values, m.num_classes)
            used = values >= 0
            wanted = {
                "ncc": ssk.ncc_accuracy(z[used], values[used], m),
                "ncc_unit": ssk.ncc_accuracy(u[used], values[used], unit),
                "cdnv": ssk.cdnv(m),
                "directional_cdnv": ssk.directional_cdnv(z, values, m),
                "nc1": ssk.neural_collapse(z, values, m.num_classes).nc1,
                "within_variance": m.m2.sum() / m.counts.sum(),
            }
            for statistic, value in wanted.items():
                got = monitor.value(statistic, layer=layer, labeling=name)
                np.testing.assert_allclose(got, float(value), **exact, err_msg=statistic)
            on_test = ssk.ncc_accuracy(z[::2][used[::2]], values[::2][used[::2]], m)
            got = monitor.value("ncc", layer=layer, labeling=name, split="test")
            assert got == pytest.approx(float(on_test))
            probed = [row for row in monitor.rows if row["statistic"] == "linear_probe"]
            assert bool(probed) is not skipped


def test_the_probe_is_ridge_regression_on_one_hot_targets():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (80,), generator=g)
    z = torch.randn(80, 7, generator=g, dtype=torch.float64) + labels[:, None] + 100
    m = ssk.class_moments(z, labels, 4)  # class 3 is empty
    probe = Ridge(ssk.PooledScatter.empty(1, 7, dtype=torch.float64).update(z)).fit(m)
    x, y = z.numpy(), np.eye(4)[labels]
    centered = x - x.mean(0)
    covariance = centered.T @ centered / 80
    ridge = RIDGE * np.trace(covariance) / 7
    weight = np.linalg.solve(covariance + ridge * np.eye(7), centered.T @ (y - y.mean(0)) / 80)
    scores = centered @ weight + y.mean(0)
    np.testing.assert_allclose((z @ probe.weight + probe.bias)[:, :3], scores[:, :3], atol=1e-10)
    np.testing.assert_array_equal(probe.predict(z), scores[:, :3].argmax(1))


def test_a_constant_layer_gives_every_row_the_commonest_class():
    z, labels = torch.full((5, 3), 2.0), torch.tensor([0, 1, 1, 1, 2])
    probe = Ridge(ssk.PooledScatter.empty(1, 3).update(z)).fit(ssk.class_moments(z, labels, 3))
    assert probe.predict(z).tolist() == [1] * 5


def test_batches_of_a_loader_are_the_same_rows():
    model, inputs, labels = problem()
    data = torch.utils.data.TensorDataset(inputs, labels)
    loader = torch.utils.data.DataLoader(data, batch_size=17, shuffle=True)
    one = EmbeddingMonitor(model, ["head"], (inputs, labels))
    other = EmbeddingMonitor(model, ["head"], loader, num_classes=4)
    for a, b in zip(one.measure(0), other.measure(0), strict=True):
        assert a["value"] == pytest.approx(b["value"], rel=1e-6)


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_left_as_found(fails):
    model, inputs, labels = problem()
    model.train()
    model.body[1].eval()  # frozen statistics, as in fine-tuning
    modes = {name: module.training for name, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.head.weight.grad = torch.ones_like(model.head.weight)
    data = [(inputs, labels), (inputs, labels)]
    monitor = EmbeddingMonitor(
        model, ["body"], data, num_classes=4, pool=_break if fails else "mean"
    )
    random, numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if fails:
            with pytest.raises(ZeroDivisionError):
                monitor.measure(0)
        else:
            monitor.measure(0)
        assert torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert torch.equal(torch.get_rng_state(), random)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy)
    assert not any(module._forward_hooks for module in model.modules())
    model(inputs).sum().backward()  # gradients still flow


def _break(output: torch.Tensor) -> torch.Tensor:
    raise ZeroDivisionError


def test_wrapped_models_are_looked_through():
    model, inputs, labels = problem()
    model.eval()
    plain = EmbeddingMonitor(model, ["head"], (inputs, labels)).measure(0)
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        wrapped(inputs)
        assert EmbeddingMonitor(wrapped, ["head"], (inputs, labels)).measure(0) == plain


def test_a_step_with_nan_is_a_gap_and_the_next_one_is_not():
    model, inputs, labels = problem()
    monitor = EmbeddingMonitor(model, ["body", "head"], (inputs, labels))
    whole = monitor.measure(0)
    with torch.no_grad():
        model.head.bias.data[0] = math.nan
    broken = monitor.measure(1)
    by_layer = {row["layer"]: [] for row in broken}
    for row in broken:
        by_layer[row["layer"]].append(row)
    assert all(math.isfinite(row["value"]) for row in by_layer["body"])
    assert by_layer["head"][0] | {"value": 0} == {
        **whole[0], "step": 1, "layer": "head", "statistic": "bad_rows", "value": 0
    }  # fmt: skip
    assert by_layer["head"][0]["value"] == 90
    statistics = [row["statistic"] for row in whole if row["layer"] == "head"]
    assert [row["statistic"] for row in by_layer["head"][1:]] == statistics
    assert all(math.isnan(row["value"]) for row in by_layer["head"][1:])
    with torch.no_grad():
        model.head.bias.data[0] = 0.0
    assert all(math.isfinite(row["value"]) for row in monitor.measure(2))


def test_losses_and_log():
    model, inputs, labels = problem()
    logged = []
    monitor = EmbeddingMonitor(
        model, ["head"], (inputs, labels), log=lambda values, step: logged.append((step, values))
    )
    terms = ssk.VICRegLoss().forward_components(torch.randn(8, 3), torch.randn(8, 3))
    rows = monitor.measure(7, losses=terms)
    assert [row["statistic"] for row in rows[:4]] == list(terms._fields)
    step, values = logged[0]
    assert step == 7 and values["train/loss"] == float(terms.loss)
    assert values["head/labels/train/ncc"] == monitor.value("ncc", layer="head", labeling="labels")
    assert monitor.to_pandas().shape == (len(rows), 6)
    assert monitor.seconds > 0
