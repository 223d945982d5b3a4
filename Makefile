# A fresh clone needs nothing but Python >= 3.11 and make: every target builds .venv and installs what it needs.
#
#   make demo     prune a real network, certify the result and print the table
#   make test     the whole test suite
#   make lint     ruff and mypy --strict
#   make bench    the recorded benchmarks, in small
#   make bench-quick  all families by all solvers for a few minutes, with a report
#
# Variables: PYTHON (interpreter that creates .venv), PIP_FLAGS (added to every pip install, for instance
# PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu" for a torch without accelerator libraries),
# WORKERS (test processes), PYTEST_FLAGS, DEMO_FLAGS, BENCH_FLAGS.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
WORKERS ?= 2
PIP_FLAGS ?=
PYTEST_FLAGS ?=
DEMO_FLAGS ?=
BENCH_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt $(PIP_FLAGS)

# Several processes on few cores: one BLAS and one OpenMP thread each, or they fight for the cores.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# The networks are read from installed packages and local files; nothing is looked up on a hub.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

.PHONY: help demo test lint format bench bench-quick env-demo env-test env-dev env-bench clean distclean

help:
	@echo "make demo       prune a real network and certify the result (installs what it needs)"
	@echo "make test       run the test suite with $(WORKERS) processes"
	@echo "make lint       ruff check, ruff format --check, mypy --strict"
	@echo "make format     let ruff rewrite the sources"
	@echo "make bench      run the recorded benchmarks in small"
	@echo "make bench-quick  compare all solvers on small instances of all families, and draw the report"
	@echo "make clean      remove caches and build products; make distclean also removes $(VENV)"

demo: env-demo
	$(OFFLINE) $(BIN)/mipprune demo $(DEMO_FLAGS)

test: env-test
	$(ONE_THREAD) $(OFFLINE) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_FLAGS)

lint: env-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: env-bench
	$(OFFLINE) $(BIN)/python -m benchmarks.run_all $(BENCH_FLAGS)

# Records go to BENCH_OUT; two of them are compared by `mipprune bench compare OLD NEW`.
BENCH_OUT ?= bench-results
bench-quick: env-bench
	$(OFFLINE) $(BIN)/mipprune bench run quick --seconds 10 --out $(BENCH_OUT) $(BENCH_FLAGS)
	@echo "Open $(BENCH_OUT)/report.html in a browser."

# ---------------------------------------------------------------------------------------------- environments

env-demo: $(STAMPS)/demo
env-test: $(STAMPS)/test
env-dev: $(STAMPS)/dev
env-bench: $(STAMPS)/bench

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 was found. Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: resolved together with everything else an unpinned release, with gigabytes of
# accelerator libraries, could be downloaded before the constraint is met.
$(STAMPS)/torch: constraints.txt | $(BIN)/python
	@mkdir -p $(STAMPS)
	$(PIP) torch numpy
	@touch $@

$(STAMPS)/demo $(STAMPS)/test $(STAMPS)/dev $(STAMPS)/bench: $(STAMPS)/%: pyproject.toml constraints.txt $(STAMPS)/torch
	$(PIP) --editable '.[$*]'
	@touch $@

# -------------------------------------------------------------------------------------------------- cleaning

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_build
	find mipprune tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	rm -rf $(VENV)
