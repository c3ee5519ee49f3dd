# `make tutorial` and `make test` are all a newcomer needs; both create .venv first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: tutorial test lint docs notebooks wheel clean

tutorial: $(INSTALLED)
	$(BIN)/python notebooks/run.py 01_digits_vae

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m "not slow" --doctest-modules --pyargs vaelab tests

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(INSTALLED)
	$(BIN)/python -m sphinx -W -n --keep-going -b html docs build/docs
	@echo "The documentation is at build/docs/index.html"

# Writes the .ipynb pairs anew from their sources.
notebooks: $(INSTALLED)
	$(BIN)/jupytext --update --to ipynb notebooks/*.md

wheel: $(INSTALLED)
	$(BIN)/python -m build --wheel --outdir dist

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vaelab needs \
	Python 3.11 or newer, and $(PYTHON) is %d.%d: write make PYTHON=python3.12" \
	% sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(INSTALLED)

clean:
	rm -rf $(VENV) build dist
