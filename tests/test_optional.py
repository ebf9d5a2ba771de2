import sys

import pytest
import torch

import sslkernels as ssk
from sslkernels import targets
from sslkernels.monitor import EmbeddingMonitor


@pytest.mark.parametrize(
    ("module", "call", "words"),
    [
        ("pandas", "evaluation", "to_pandas: needs pandas: pip install pandas"),
        ("pandas", "monitor", "to_pandas: needs pandas: pip install pandas"),
        ("sklearn.cluster", "clusters", "clusters: needs scikit-learn: pip install scikit-learn"),
    ],
)
def test_a_missing_library_is_named(monkeypatch, module, call, words):
    z, labels = torch.eye(4), torch.arange(4) % 2
    model = torch.nn.Linear(4, 2)
    calls = {
        "evaluation": ssk.evaluate(z, labels, directional=False).to_pandas,
        "monitor": EmbeddingMonitor(model, [""], (z, labels)).to_pandas,
        "clusters": lambda: targets.clusters(z, 2),
    }
    monkeypatch.setitem(sys.modules, module, None)  # an import of it fails
    with pytest.raises(ImportError, match=words):
        calls[call]()
