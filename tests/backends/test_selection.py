from importlib import import_module

import pytest
import torch

import sslkernels as ssk
from sslkernels.backends import cpu
from sslkernels.passes.selection import select


def test_every_backend_says_how_or_why_not():
    report = ssk.backends()
    assert set(report) == {"cpu", "triton", "torch"}
    assert report["cpu"].usable and "threads" in report["cpu"].reason
    assert report["torch"].usable
    assert all(status.reason for status in report.values())


def test_unknown_name():
    with pytest.raises(ValueError, match="name: no backend 'cuda'; one of cpu, triton, torch"):
        ssk.use_backend("cuda").__enter__()


def test_unusable_backend_is_refused(monkeypatch):
    monkeypatch.setattr(cpu, "unusable", lambda: "no compiler")
    assert ssk.backends()["cpu"] == (False, "no compiler")
    with pytest.raises(RuntimeError, match="backend 'cpu' is not usable here: no compiler"):
        ssk.use_backend("cpu").__enter__()


def test_choice_is_explicit_and_ends_with_the_block():
    z = torch.ones(2, 2)
    assert select("class_moments_update", z).__name__.endswith(".cpu")
    with ssk.use_backend("torch"):
        assert select("class_moments_update", z).__name__.endswith(".torch")
        with ssk.use_backend("cpu"):
            assert select("class_moments_update", z).__name__.endswith(".cpu")
        assert select("class_moments_update", z).__name__.endswith(".torch")
    assert select("class_moments_update", z).__name__.endswith(".cpu")


def test_no_silent_fallback(monkeypatch):
    monkeypatch.setattr(cpu, "cannot", lambda pass_name, z: "too big")
    z = torch.ones(2, 2)
    assert select("class_moments_update", z).__name__.endswith(".torch")
    with ssk.use_backend("cpu"), pytest.raises(RuntimeError, match="cpu: too big"):
        select("class_moments_update", z)
    plain = import_module("sslkernels.backends.torch")
    monkeypatch.setattr(plain, "cannot", lambda pass_name, z: "not today")
    with pytest.raises(RuntimeError, match="cpu: too big; torch: not today"):
        select("class_moments_update", z)
