# Everything a fresh machine needs is Python >= 3.11 and make.
PYTHON ?= python3
# The release the tests were run with; its wheel on PyPI is large on machines with another default build.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test setup check long torch bench clean

demo: setup ## run the main job on the bundled trained network and open-ready results in results/demo
	$(BIN)/nestling run --out results/demo

test: $(VENV)/.installed-dev ## run the everyday tests
	$(BIN)/python -m pytest

setup: $(STAMP) ## create .venv and install nestling

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("nestling needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(STAMP)

check: $(VENV)/.installed-dev ## static checks: style, types, import contracts, packaging
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m tests.check_types
	$(BIN)/lint-imports
	$(BIN)/python -m tests.check_wheel

long: $(VENV)/.installed-dev ## the slow tests
	$(BIN)/python -m pytest -m long

torch: $(VENV)/.installed-train ## the tests that need PyTorch
	$(BIN)/python -m pytest $$(grep -l "importorskip(\"torch\")" tests/*.py)

$(VENV)/.installed-train: pyproject.toml $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,train]' '$(TORCH)'
	touch $@ $(STAMP) $(VENV)/.installed-dev

bench: $(VENV)/.installed-dev ## benchmarks
	$(BIN)/nestling bench

clean:
	rm -rf $(VENV) results build dist *.egg-info
