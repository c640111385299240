# `make try`, `make demo` and `make test` need only Python 3.11 or newer, pip and make: the rest goes into .venv.
# `make setup` and `make try` put only what runs a model there; the other targets add torch and all that trains.
# Tests are fast, `medium` (each a quarter of a second of CPU or more, or what it uses takes seconds to make) or `slow`
# (minutes):
#   make test-fast   fast: the inner loop, under a minute on two idle cores; something of every folder of the package
#   make test        fast and medium: before a commit, about two minutes
#   make test-slow   slow: before a release
# A file's tests run in one process (--dist loadfile), so that what they share is made once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LIGHT := $(VENV)/.light
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

PYTEST := $(BIN)/python -m pytest

.PHONY: setup try demo test test-fast test-slow check format benchmarks clean

setup: $(LIGHT)
	@echo "next: source $(BIN)/activate && layerdial transcribe AUDIO"

# make try ARGS="--audio my.wav"
try: $(LIGHT)
	$(BIN)/layerdial try $(ARGS)

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

define NEW_VENV
@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("layerdial needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Set PYTHON=python3.12, for example")'
$(PYTHON) -m venv $(VENV)
endef

$(LIGHT): pyproject.toml constraints.txt
	$(NEW_VENV)
	$(PIP) -e '.[try]'
	@touch $(LIGHT)

# torch first, and pinned: a range would let pip take a build with gigabytes of CUDA libraries
$(READY): pyproject.toml constraints.txt
	$(NEW_VENV)
	$(PIP) torch
	$(PIP) -e '.[dev]'
	@touch $(LIGHT) $(READY)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
