# `make demo` and `make test` need Python 3.11 or newer and make; they set up everything else.
# the first that runs and is new enough
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; \
done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# tests wait for servers and browsers too: one process more than there are cores, four at most
WORKERS = $(shell $(BIN)/python -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))')
MODELS := $(patsubst %/model.safetensors,%,$(wildcard plugins/*/models/*/model.safetensors))

.PHONY: demo test lint docs train-all clean

demo: $(STAMP)  ## run every bundled model once
	$(BIN)/txzoo demo

test: $(STAMP) lint  ## lint, types and tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## build the documentation into site/; a warning fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

train-all: $(STAMP)  ## train all bundled models anew into runs/ (needs TXZOO_DATA or the network)
	train() ( \
	  folder=$$(echo plugins/*/models/$$1); \
	  base=$$(sed -n 's/^base = "\(.*\)"/\1/p' $$folder/recipe.toml); \
	  if [ -d plugins/*/models/"$${base:-none}" ] && [ ! -f plugins/*/models/"$$base"/model.safetensors ]; \
	  then [ -d runs/$$base ] || train $$base || exit 1; base="--base runs/$$base"; \
	  else base=; fi; \
	  $(BIN)/txzoo train $$folder/recipe.toml $$base --out runs/$$1 \
	); \
	for model in $(notdir $(MODELS)); do train $$model || exit 1; done

clean:  ## remove the environment and everything made
	rm -rf $(VENV) dist build site .mypy_cache .ruff_cache .pytest_cache

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "txzoo needs Python 3.11 or newer: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	touch $(STAMP)
