# Everything runs in a virtual environment beside this file; `make` sets it up by itself.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/quickstart

.PHONY: quickstart test lint types tests notebooks results clean

quickstart: $(VENV)/.installed
	$(BIN)/bert_jax quickstart --workdir $(WORKDIR)

test: lint types tests

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

tests: $(VENV)/.installed-test
	$(BIN)/pytest

notebooks: $(VENV)/.installed-test
	$(BIN)/python tools/run_notebooks.py

results: $(VENV)/.installed
	$(BIN)/python tools/results.py

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[test,tensorflow]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
