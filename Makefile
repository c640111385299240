# `make demo` and `make test` need only Python 3.11 or newer, pip and make: the rest goes into .venv.
# Tests are fast, `medium` (each a quarter of a second of CPU or more, or what it uses takes seconds to make) or `slow`
# (minutes):
#   make test-fast   fast: the inner loop, under a minute on two idle cores; something of every folder of the package
#   make test        fast and medium: before a commit, about two minutes
#   make test-slow   slow: before a release
# A file's tests run in one process (--dist loadfile), so that what they share is made once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

PYTEST := $(BIN)/python -m pytest

.PHONY: demo test test-fast test-slow check format benchmarks clean

demo: $(READY)
	$(BIN)/layerdial demo

test: $(READY)
	$(PYTEST) -n 2 --dist loadfile

test-fast: $(READY)
	$(PYTEST) -n 2 --dist loadfile -m 'not slow and not medium'

test-slow: $(READY)
	$(PYTEST) -m slow

check: $(READY)
	$(BIN)/ruff check src tests benchmarks experiments recipes setup.py
	$(BIN)/ruff format --check src tests benchmarks experiments recipes setup.py
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix src tests benchmarks experiments recipes setup.py
	$(BIN)/ruff format src tests benchmarks experiments recipes setup.py

benchmarks: $(READY)
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/latency.py --onnx
	$(BIN)/python benchmarks/features.py
	$(BIN)/python benchmarks/convolution.py
	$(BIN)/python benchmarks/hugging_face.py

# torch first, and pinned: a range would let pip take a build with gigabytes of CUDA libraries
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("layerdial needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Set PYTHON=python3.12, for example")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
