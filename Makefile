# Every verb does its own set-up in .venv; a machine needs Python 3.10+, a C++ compiler and make.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
CORES := $(shell getconf _NPROCESSORS_ONLN)
# Triton has wheels for Linux alone.
TRITON := $(if $(filter Linux,$(shell uname -s)),triton)
# Tests run in as many processes as there are cores; threads that wait do not spin.
PYTEST := OMP_WAIT_POLICY=passive $(PY) -m pytest -q -n $(CORES) --dist worksteal
KERNELS := $(wildcard csrc/*.cpp csrc/*/*.cpp csrc/*/*.h csrc/*/*/*.cpp csrc/*/*/*.h)
SOURCES := $(KERNELS) $(wildcard csrc/core/cpu/*.cmake) CMakeLists.txt setup.py pyproject.toml constraints.txt

.PHONY: install demo check test soak kernels lint format bench test-gpu bench-gpu clean

install: $(STAMP)

$(STAMP): $(SOURCES)
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -c constraints.txt "setuptools>=77" wheel "pybind11>=2.12" cmake ninja torch numpy $(TRITON)
	@echo "compiling the C++ kernels: two minutes on two cores"
	$(PY) -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[dev]"
	$(PY) -m pip install --quiet --no-deps lightly==1.6.0  # its losses need none of torchvision
	touch $(STAMP)

demo: $(STAMP)
	$(PY) -m sslkernels demo

# Lint, and every test once that takes no seconds: what to run while working.
check: lint
	$(PYTEST) --one-each tests sslkernels --ignore tests/triton/test_aot.py

# Everything that a machine without a GPU can prove.
test: $(STAMP)
	$(PYTEST)
	TRITON_INTERPRET=1 $(PYTEST) tests/triton
	$(PY) -m tests.soak --seconds 60

# Options: SECONDS, SEED, ISA, BACKEND, THREADS, SCALE, ONLY. The interpreter of Triton:
# TRITON_INTERPRET=1 make soak BACKEND=triton SCALE=0.02
soak: $(STAMP)
	$(PY) -m tests.soak --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED)) \
	    $(if $(ISA),--isa $(ISA)) $(if $(BACKEND),--backend $(BACKEND)) \
	    $(if $(THREADS),--threads $(THREADS)) $(if $(SCALE),--scale $(SCALE)) \
	    $(foreach name,$(ONLY),--only $(name))

# After a change of a Triton kernel: compiles all of them for GPUs that need not be here.
kernels: $(STAMP)
	$(PY) -m tests.triton.aot --write

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(KERNELS)

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(KERNELS)

bench: $(STAMP)
	$(PY) -m benchmarks

# The GPU verbs use the machine's own Python, so that they work where nothing can be downloaded.
test-gpu:
	$(PYTHON) -m pip install --quiet --no-build-isolation --no-deps -e .
	$(PYTHON) -m pytest -m gpu tests

bench-gpu:
	$(PYTHON) -m pip install --quiet --no-build-isolation --no-deps -e .
	$(PYTHON) -m benchmarks.gpu --json benchmarks/results

clean:
	rm -rf $(VENV) build dist *.egg-info sslkernels/backends/cpu/_C*.so .pytest_cache .mypy_cache .ruff_cache
