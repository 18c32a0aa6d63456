# Every target makes and uses .venv in this folder; nothing needs to be installed before but
# Python 3.11 to 3.13. PYTHON chooses the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Data that is not in the repository; tests that need it say so and are skipped where it is missing.
export OODSCREEN_DATA ?= $(abspath ../shared/data)
# Two CIFAR-10 networks that are not in the repository, for `make bench`.
export OODSCREEN_MODELS ?= $(abspath ../shared/models)
# TensorFlow is only used on the CPU here, whatever the machine has.
PYTEST := $(BIN)/python -m pytest
# Tests start many processes; without compiled modules, each of them and each worker compiles all modules again.
unexport PYTHONDONTWRITEBYTECODE
# Processes that share the tests; `make test WORKERS=0` runs them one after the other, in one process.
WORKERS ?= auto
PARALLEL = -n $(WORKERS) --dist worksteal

# A Python with PyTorch, for the tests of its ONNX files; it is not part of .venv. The build for the CPU takes 1 GB, the one
# for CUDA 5 GB, so only the first is installed: where pip finds it, such as in PyTorch's own index.
export OODSCREEN_TORCH ?= $(abspath .venv-torch/bin/python)
TORCH_PACKAGES ?= torch==2.13.0+cpu onnx onnxscript

.PHONY: help install demo test lint integration browser torch bench docs clean

help:  ## Show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP)  ## Make .venv with everything that demo and tests need

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## Train, export and screen on bundled MNIST digits
	$(BIN)/oodscreen demo demo-output

test: $(STAMP) lint  ## Lint, types, import contracts, tests
	$(PYTEST) -m 'not integration' $(PARALLEL)

lint: $(STAMP)  ## Lint, types and import contracts alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One after the other: tests kill processes at measured times, and click in a browser.
integration: $(STAMP) browser torch  ## The heavy tests with real parts
	$(PYTEST) -m integration

# Debian's Chromium for the tests in a browser, which are skipped where it is missing.
browser:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends \
		chromium fonts-dejavu-core >/dev/null; } || echo "no chromium and no right to install it: tests in a browser are skipped"

# PyTorch in an environment of its own; without it, the tests of its files are skipped.
torch:
	@$(OODSCREEN_TORCH) -c 'import torch, onnxscript' 2>/dev/null || { $(PYTHON) -m venv .venv-torch \
		&& .venv-torch/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH_PACKAGES); } \
		|| { rm -rf .venv-torch; echo "no PyTorch: tests of its files are skipped; to run them, set" \
		"PIP_EXTRA_INDEX_URL to PyTorch's index of builds for the CPU, or OODSCREEN_TORCH to a Python with PyTorch"; }

bench: $(STAMP)  ## Measure, keep the results as JSON
	$(BIN)/python -m benchmarks.mnist --data $(OODSCREEN_DATA)
	$(BIN)/python -m benchmarks.throughput --data $(OODSCREEN_DATA)
	$(BIN)/python -m benchmarks.detection --data $(OODSCREEN_DATA)
	$(BIN)/python -m benchmarks.colour --data $(OODSCREEN_DATA) --models $(OODSCREEN_MODELS)
	$(BIN)/python -m benchmarks.dropout --data $(OODSCREEN_DATA)
	$(BIN)/python -m benchmarks.promises --data $(OODSCREEN_DATA)
	$(BIN)/python -m benchmarks.article --data $(OODSCREEN_DATA)
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.fuzz
	$(BIN)/python -m benchmarks.hostile
	$(BIN)/python -m benchmarks.report
	$(BIN)/python -m benchmarks.scale --data $(OODSCREEN_DATA)

docs: $(STAMP)  ## Renew the generated parts of README and docs, console output included
	$(BIN)/python -m tests.generated --console

clean:  ## Remove the environments and what the targets made
	rm -rf $(VENV) .venv-torch build demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
