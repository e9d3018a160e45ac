# What a person or a machine runs here. Everything is installed into .venv, from the index that pip is configured with.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# PyPI's torch for Linux includes CUDA. This index has the CPU build; `make install TORCH_INDEX=` leaves it out, for GPUs.
# Where pip is configured with another index, that one alone decides.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast lint dist smoke docs clean

help:  ## Show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/run.stamp  ## Install into .venv (1.9 GB with torch for CPUs)
	@echo "Installed. Now: . $(BIN)/activate, then prooftune --help"

demo: .venv/run.stamp  ## Install, then tune and compare the small embedded model (two to six minutes)
	$(BIN)/prooftune demo

test: .venv/test.stamp lint  ## Install, then check style and types and run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-fast: .venv/test.stamp  ## Run the quick tests, without the real model (about two minutes on one core)
	$(BIN)/python -m pytest -q -m "not model and not slow"

lint: .venv/test.stamp  ## Check style and types
	$(BIN)/ruff check src tests benchmarks docs examples
	$(BIN)/ruff format --check src tests benchmarks docs examples
	$(BIN)/mypy src tests

dist: .venv/dist.stamp  ## Build and check the wheel and the sdist; lint the Dockerfile
	rm -rf dist
	$(BIN)/python -m build --no-isolation .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/smoke/distributions.py dist
	$(BIN)/hadolint Dockerfile

smoke: dist  ## Install the wheel elsewhere; run every command there with requirements/run.txt only
	.ci/smoke

docs: .venv/docs.stamp  ## Build the documentation site into site/, without network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Built. Open site/index.html"

clean:  ## Remove the environments, the caches and what was built
	rm -rf .venv .venv-smoke .pytest_cache .mypy_cache .ruff_cache .hypothesis dist site

# The stamps keep make from installing again until what is required changes.
.venv/run.stamp: requirements/torch.txt requirements/run.txt pyproject.toml
	@echo "Installing into .venv, which takes a minute or two"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@if [ -z "$(TORCH_INDEX)" ] || $(BIN)/python -m pip config list 2>/dev/null | grep -qE 'index-url|no-index'; \
	then set -x; $(PIP) -r requirements/torch.txt; \
	else set -x; $(PIP) -r requirements/torch.txt --extra-index-url $(TORCH_INDEX); fi
	$(PIP) -r requirements/run.txt
	$(PIP) --no-deps --editable .
	touch $@

.venv/%.stamp: requirements/%.txt .venv/run.stamp
	$(PIP) -r requirements/$*.txt
	touch $@
