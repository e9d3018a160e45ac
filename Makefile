# What a person or a machine runs here. Everything is installed into .venv, from whatever index pip is set up with.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: help install demo test lint clean

help:  ## Show what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/run.stamp  ## Install into .venv (1.9 GB, most of it torch)
	@echo "Installed. Now: . $(BIN)/activate, then prooftune --help"

demo: .venv/run.stamp  ## Install, then tune and compare the small embedded model (about 5 minutes)
	$(BIN)/prooftune demo

test: .venv/test.stamp lint  ## Install, then check style and types and run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: .venv/test.stamp  ## Check style and types
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy src tests

clean:  ## Remove the environment and the caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps keep make from installing again until what is required changes.
.venv/run.stamp: requirements/torch.txt requirements/run.txt pyproject.toml
	@echo "Installing into .venv, which takes a minute or two"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -r requirements/torch.txt
	$(PIP) -r requirements/run.txt
	$(PIP) --no-deps --editable .
	touch $@

.venv/test.stamp: .venv/run.stamp requirements/test.txt
	$(PIP) -r requirements/test.txt
	touch $@
