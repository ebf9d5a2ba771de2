"""Who may import whom: numerics < passes < backends, and the public packages above reach backends
through the passes alone. docs/design.md draws it."""

import ast
from pathlib import Path

import pytest

import sslkernels
from sslkernels.passes.selection import NAMES, named

ROOT = Path(sslkernels.__file__).parent
FILES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}

# What the modules of a folder may import of this package; others may import all but backends.
ALLOWED = {
    "reference": ("reference",),
    "numerics": ("numerics",),
    "passes": ("numerics", "passes"),
    "backends/cpu": ("numerics", "passes", "backends.cpu"),
    "backends/torch": ("numerics", "passes", "backends.torch"),
    # Where dense operations are the best there is on a GPU, the pass is torch's.
    "backends/triton": ("numerics", "passes", "backends.triton", "backends.torch"),
}
# ``sslkernels info`` says which instruction set runs; the package itself imports backends by name.
LOOKS_AT_BACKENDS = ("cli/app.py", "cli/facts.py", "__init__.py")


def imported(tree):
    """The modules of this package that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            names = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
        else:
            continue
        yield from (name[11:] for name in names if str(name).startswith("sslkernels."))


@pytest.mark.parametrize("file", FILES)
def test_imports_point_down(file):
    names = set(imported(ast.parse(FILES[file].read_text())))
    folder = next((f for f in ALLOWED if file.startswith(f + "/")), None)
    if folder is not None:
        wrong = {n for n in names if not any(f"{n}.".startswith(f"{a}.") for a in ALLOWED[folder])}
    else:
        wrong = {n for n in names if f"{n}.".startswith("backends.")}
    if file not in (*LOOKS_AT_BACKENDS, "passes/selection.py"):
        assert not wrong


@pytest.mark.parametrize("name", NAMES)
def test_tables_of_passes(name):
    """Every backend has every function that the contracts ask for where its table says."""
    backend = named(name)
    if backend.unusable() is None:
        assert all(callable(getattr(backend, function)) for function in backend.PASSES)
    common = set.intersection(*(set(named(n).PASSES) for n in NAMES))
    assert len(common) == 15 and set(named("cpu").PASSES) == common
    with pytest.raises(AttributeError, match="has no attribute 'gram'"):
        _ = backend.gram
