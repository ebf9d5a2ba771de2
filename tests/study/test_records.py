"""Settings, tables and verdicts of a study, without training."""

import math

import numpy as np
import pytest

from sslkernels.study.figures import relative
from sslkernels.study.findings import NOT, REPRODUCED, UNTESTABLE, _rank_correlation, findings
from sslkernels.study.records import Table
from sslkernels.study.settings import StudySettings


def row(value, *, seed=0, method="vicreg", epoch=0, layer="backbone", labeling="digit",
        split="test", statistic="ncc"):  # fmt: skip
    return {
        "seed": seed, "method": method, "step": 5 * epoch, "epoch": epoch, "layer": layer,
        "labeling": labeling, "split": split, "statistic": statistic, "value": value,
    }  # fmt: skip


def test_settings():
    full = StudySettings()
    assert StudySettings.from_dict(full.as_dict()) == full
    assert full.runs()[:3] == [(0, "vicreg"), (0, "simclr"), (0, "supervised")]
    assert len(full.runs()) == 15
    alone = StudySettings(methods=("simclr",)).runs()
    assert alone == [(seed, "simclr") for seed in range(3)]
    marks = full.measured_epochs()
    assert marks == sorted(set(marks)) and marks[0] == 0 and marks[-1] == full.epochs
    assert StudySettings(epochs=1).measured_epochs() == [0, 1]
    with pytest.raises(ValueError, match=r"methods: expected some of vicreg, .* got 'moco'"):
        StudySettings(methods=("moco",))
    with pytest.raises(ValueError, match="epochs: expected 1 or more"):
        StudySettings(epochs=0)


def test_a_table_shows_epochs_that_all_seeds_have():
    rows = [row(e + s, seed=s, epoch=e) for s in (0, 1) for e in (0, 1, 2) if (s, e) != (1, 2)]
    table = Table(rows)
    where = {"layer": "backbone", "labeling": "digit", "split": "test"}
    assert table.series("vicreg", "ncc", **where) == {0: {0: 0, 1: 1}, 1: {0: 1, 1: 2}}
    assert table.last("vicreg", "ncc", **where) == {0: 1, 1: 2}
    assert table.last("simclr", "ncc", **where) == {}


def test_relative_curves_go_from_0_to_1():
    series = {0: {0: 2.0, 1: 5.0}, 3: {0: 3.0, 1: 5.0}, 6: {0: 6.0, 1: 5.0}}
    assert relative(series) == {0: {0: 0.0}, 3: {0: 0.25}, 6: {0: 1.0}}
    assert relative({0: {0: 1.0}}) == {}
    assert relative({0: {0: 1.0}, 3: {0: 2.0}, 6: {0: 1.0}}) == {}  # back where it started


def verdict(gains, name="semantic class"):
    rows = []
    for seed, gain in enumerate(gains):
        rows += [row(0.5, seed=seed), row(0.5 + gain, seed=seed, epoch=9)]
    found = findings(Table(rows), ["vicreg"], {})
    return next(f for f in found if name in f.claim)


def test_verdicts():
    assert verdict([0.2, 0.3, 0.25]).verdict == REPRODUCED
    assert verdict([0.2, -0.01, 0.25]).verdict == NOT  # not in every seed
    assert verdict([0.001, 0.5, 0.002]).verdict == NOT  # within two standard errors
    assert verdict([-0.2]).verdict == NOT
    assert "one seed" in verdict([0.2]).shown and verdict([0.2]).verdict == REPRODUCED
    assert verdict([0.2], "augmented sample").verdict == UNTESTABLE
    assert verdict([math.nan, math.nan]).verdict == UNTESTABLE
    assert verdict([0.2], "regularization clusters").verdict == UNTESTABLE
    assert verdict([0.2], "only the regularization still falls").verdict == UNTESTABLE


def test_a_part_that_does_less_harm_than_the_other_does_not_cluster():
    rows = [row(0.5, method=m) for m in ("regularization-only", "invariance-only")]
    rows += [row(0.48, method="regularization-only", epoch=9)]
    rows += [row(0.1, method="invariance-only", epoch=9)]
    found = findings(Table(rows), [], {})
    assert found[0].verdict == NOT and found[0].shown.startswith("-2.0 points")


def test_what_comes_after_the_invariance_has_fallen():
    clustering = {0: 0.1, 1: 0.2, 2: 0.3, 9: 1.0}
    terms = {0: 10.0, 1: 5.0, 2: 1.0, 9: 0.0}
    rows = [row(value, epoch=x) for x, value in clustering.items()]
    for x, value in terms.items():
        rows.append(
            row(value, epoch=x, layer="", labeling="", split="train", statistic="invariance")
        )
    found = findings(Table(rows), [], {})
    assert found[1].shown.startswith(f"{100 * (0.7 / 0.9 - 0.5):+.1f}")
    assert found[1].verdict == REPRODUCED


def test_rank_correlation_is_spearmans():
    scipy = pytest.importorskip("scipy.stats")
    g = np.random.default_rng(0)
    for _ in range(20):
        a, b = g.integers(0, 6, (2, 9)).astype(float)
        wanted = scipy.spearmanr(a, b).statistic
        assert _rank_correlation(a, b) == pytest.approx(wanted, nan_ok=True)
