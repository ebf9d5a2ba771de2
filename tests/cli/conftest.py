import numpy as np
import pytest

from sslkernels.cli import console, main


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Run a command line in tmp_path: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    # As in a pipe, wherever the module was first imported.
    monkeypatch.setattr(console.out, "_width", console._WIDTH)

    def run(*args):
        with pytest.raises(SystemExit) as left:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return left.value.code, captured.out, captured.err

    return run


@pytest.fixture
def data(tmp_path):
    """Embeddings with labels at two levels and test rows, saved in tmp_path; the arrays by name."""
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(6, 8))
    arrays = {}
    for part, rows in (("train", 97), ("test", 41)):
        fine = rng.integers(0, 6, rows)
        arrays[part] = (centers[fine] + rng.normal(size=(rows, 8)) * 2).astype(np.float32)
        fine[3] = -100
        arrays[f"{part}_fine"] = fine
        arrays[f"{part}_coarse"] = np.where(fine < 0, fine, fine // 2)
        arrays[f"{part}_chance"] = rng.integers(0, 4, rows)
    arrays["train_fine"][arrays["train_fine"] == 4] = 5  # class 4 has test rows only
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    return arrays
