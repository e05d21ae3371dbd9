# One way to run and one way to test. Everything is installed into .venv, again only when what is to be
# installed has changed; the sources are used where they are.

PYTHON ?= python3
ARGS ?=
CHAOS_SECONDS ?= 120

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TO_INSTALL := setup.cfg pyproject.toml

# Twice as many as there are cores: tests that run servers wait for them half of the time.
SIDE_BY_SIDE = --numprocesses=$$(( 2 * $$(getconf _NPROCESSORS_ONLN) )) --dist=worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test coverage chaos bench clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

run: .venv/installed ## start a server on port 8080, with a store of its own; more options in ARGS='...'
	$(BIN)/twistd -n --pidfile= chatsvc --port 8080 $(ARGS)

test: .venv/installed-dev ## style, types, layers, then all tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest $(SIDE_BY_SIDE) $(ARGS)

coverage: .venv/installed-dev ## all tests, and which lines and branches they reach; half as long again
	$(BIN)/pytest $(SIDE_BY_SIDE) --cov --cov-report=term $(ARGS)

chaos: .venv/installed-dev ## the tests that kill parts under load, in their long form: CHAOS_SECONDS=120 each
	CHAOS_SECONDS=$(CHAOS_SECONDS) $(BIN)/pytest -m chaos $(ARGS)

bench: .venv/installed-bench ## what a message costs, beside bounds measured with it; parts in ARGS='--only pairs,idle'
	$(BIN)/python -m bench run $(ARGS)

clean: ## remove what was built and installed, but no data
	rm -rf .venv build dist *.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache
	rm -rf .hypothesis .import_linter_cache twisted/plugins/dropin.cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "chatsvc needs Python 3.11 or later as $(PYTHON); name another one with PYTHON=/path/to/python." >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "This Python cannot make virtual environments: its modules venv and ensurepip are missing." >&2; \
	  echo "On Debian and Ubuntu they are in the package python3-venv; PYTHON=/path/to/python names another." >&2; \
	  exit 1; }
	$(PYTHON) -m venv --clear .venv

# 'compat' puts the checkout itself on Python's path, where Twisted looks for twisted/plugins; with the
# finder that setuptools installs by default, twistd does not see the plugin.
.venv/installed: .venv/bin/python $(TO_INSTALL)
	$(PIP) install --config-settings editable_mode=compat --editable .
	@touch $@

.venv/installed-dev: .venv/bin/python $(TO_INSTALL)
	$(PIP) install --config-settings editable_mode=compat --editable '.[dev]'
	@touch .venv/installed $@

.venv/installed-bench: .venv/bin/python $(TO_INSTALL)
	$(PIP) install --config-settings editable_mode=compat --editable '.[bench]'
	@touch .venv/installed $@
