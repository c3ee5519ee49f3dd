# `make tutorial` and `make test` are all a newcomer needs. Each makes .venv first, and
# installs what it needs itself: with uv where there is one, else with pip.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BENCH_VENV := build/venv-bench
BENCH ?=
UV := $(shell command -v uv 2>/dev/null)

# $(call install,EXTRA) installs vaelab as it stands here, with what EXTRA needs.
ifdef UV
install = $(UV) pip install --quiet --python $(BIN)/python --editable '.[$(1)]'
else
install = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) \
	--editable '.[$(1)]'
endif

.PHONY: tutorial test lint docs notebooks bench wheel clean

tutorial: $(VENV)/has-notebooks
	$(BIN)/python notebooks/run.py 01_digits_vae

test: $(VENV)/has-test
	$(BIN)/python -m pytest -n 2 -m "not slow" --doctest-modules --pyargs vaelab tests

lint: $(VENV)/has-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/has-docs
	$(BIN)/python -m sphinx -W -n --keep-going -b html docs build/docs
	@echo "The documentation is at build/docs/index.html"

# Writes the .ipynb pairs anew from their sources.
notebooks: $(VENV)/has-notebooks
	$(BIN)/jupytext --update --to ipynb notebooks/*.md

wheel: $(VENV)/has-dev
	$(BIN)/python -m build --wheel --outdir dist

# Training speed next to other libraries, which go into a virtual environment apart.
# make bench BENCH='--works B --rounds 3' passes options on. On Linux, torch comes with
# gigabytes for GPUs unless pip is told of an index with builds for the CPU.
bench: $(BENCH_VENV)/installed
	$(BENCH_VENV)/bin/python -m benchmarks.speed $(BENCH)

$(BENCH_VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BENCH_VENV)/bin/python -m pip install --quiet --editable . --group bench
	@touch $@

# One notebook needs a small part of what is installed: Python compiles that by itself.
$(VENV)/has-notebooks: PIP_OPTIONS := --no-compile

$(VENV)/has-%: pyproject.toml | $(BIN)/python
	$(call install,$*)
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vaelab needs \
	Python 3.11 or newer, and $(PYTHON) is %d.%d: write make PYTHON=python3.12" \
	% sys.version_info[:2])'
	$(if $(UV),$(UV) venv --quiet --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))

clean:
	rm -rf $(VENV) build dist
