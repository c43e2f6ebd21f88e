# Needs Python 3.11 to 3.13, pip and make; everything else goes into $(VENV).
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help quickstart test check bench format clean

help:  ## Show what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.quickstart: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[quickstart]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.quickstart

quickstart: $(VENV)/.quickstart  ## Speech in, a report with sound out: runs/quickstart/report.html
	$(BIN)/vocable assets fetch quickstart
	$(BIN)/vocable quickstart

test: $(VENV)/.dev  ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/.dev  ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.dev  ## Time our way against the plain way, in one run
	$(BIN)/python benchmarks/extraction.py hubert
	$(BIN)/python benchmarks/extraction.py whisper
	$(BIN)/python benchmarks/kmeans.py
	$(BIN)/python benchmarks/vector_quantizer.py
	$(BIN)/python benchmarks/lm_training.py
	$(BIN)/python benchmarks/last_training.py
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/pair_scoring.py
	$(BIN)/python benchmarks/vocoder.py

format: $(VENV)/.dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment and caches, not runs/
	rm -rf $(VENV) .pytest_cache .ruff_cache
