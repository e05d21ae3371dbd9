# One way to run and one way to test. Everything is installed into .venv, again only when what is to be
# installed has changed; the sources are used where they are.

PYTHON ?= python3
ARGS ?=
CHAOS_SECONDS ?= 20
FUZZ_SECONDS ?= 60
SEEDS ?= 10000
MODEL_EXAMPLES ?= 200

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Most of what is installed is never imported here; the rest is compiled when it is. Twice quiet, for pip repeats
# each time that setuptools calls 'compat' transitional.
INSTALL := $(PIP) --quiet install --no-compile --config-settings editable_mode=compat --editable
TO_INSTALL := setup.cfg pyproject.toml

# semgrep asks for older releases of what we use, so it has an environment of its own. Its rules come from its
# registry unless this names a file or a directory with others.
SEMGREP := .venv/semgrep/bin/semgrep
SEMGREP_RULES ?= p/python
# The same releases for every Python and system that setup.cfg allows, each with the hashes of its files.
PIN := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --custom-compile-command 'make constraints' $(ARGS)

# Three times as many as there are cores: tests that run servers wait for them half of the time.
SIDE_BY_SIDE = --numprocesses=$$(( 3 * $$(getconf _NPROCESSORS_ONLN) )) --dist=worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test types tests coverage chaos simulate fuzz screenshots bench audit constraints sbom clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

run: .venv/installed ## start a server on port 8080, a chat page on 8081, with a store of its own; more options in ARGS='...'
	$(BIN)/twistd -n --pidfile= chatsvc --port 8080 --web tcp:8081:interface=127.0.0.1 $(ARGS)

test: .venv/installed-dev ## style, types, layers, then all tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@$(MAKE) --no-print-directory --jobs=2 types tests

# Side by side: what looks at the sources takes one core, while one process compiles what the tests import.
types:
	$(BIN)/lint-imports
	$(BIN)/mypy

tests: .venv/imported
	$(BIN)/pytest $(SIDE_BY_SIDE) $(ARGS)

coverage: .venv/installed-dev ## all tests, and which lines and branches they reach; half as long again
	$(BIN)/pytest $(SIDE_BY_SIDE) --cov --cov-report=term $(ARGS)

chaos: .venv/installed-dev ## kill, freeze, cut off and damage parts under load, CHAOS_SECONDS=20 a test, and report
	CHAOS_SECONDS=$(CHAOS_SECONDS) $(BIN)/pytest tests/chaos $(ARGS)

simulate: .venv/installed-dev ## SEEDS=10000 runs with faults in memory, planted bugs, MODEL_EXAMPLES=200 against the model
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --jobs $$(getconf _NPROCESSORS_ONLN) $(ARGS)
	$(BIN)/python -m tests.simulation --plants --jobs $$(getconf _NPROCESSORS_ONLN)
	CHATSVC_MODEL_EXAMPLES=$(MODEL_EXAMPLES) $(BIN)/pytest tests/test_model.py

fuzz: .venv/installed-dev ## hostile bytes and peers: FUZZ_SECONDS=60 of each kind, then a few minutes of attacks
	$(BIN)/python -m tests.fuzz all --seconds $(FUZZ_SECONDS) $(ARGS)

screenshots: .venv/installed-dev ## pictures of the chat page, into docs/images
	SCREENSHOTS=docs/images $(BIN)/pytest tests/browser/test_screenshots.py $(ARGS)

bench: .venv/installed-bench ## what a message costs, beside bounds measured with it; parts in ARGS='--only pairs,idle'
	$(BIN)/python -m bench run $(ARGS)

audit: .venv/installed-audit $(SEMGREP) ## look for weaknesses in the code and in what it stands on; asks the network
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml chatsvc twisted deploy
	$(SEMGREP) scan --error --quiet --metrics=off --config $(SEMGREP_RULES) chatsvc twisted deploy
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement deploy/constraints.txt

constraints: .venv/installed-audit ## write deploy/*constraints.txt anew; ARGS=--upgrade takes the newest releases
	$(BIN)/$(PIN) --output-file deploy/constraints.txt setup.cfg
	printf '%s\n' 'setuptools >= 75' 'cyclonedx-bom >= 7.2' | $(BIN)/$(PIN) --output-file deploy/build-constraints.txt -

sbom: .venv/installed-dev ## what the image installs, as a bill of materials: dist/chatsvc.cdx.json
	$(PYTHON) -m venv --clear --without-pip build/image
	$(PIP) --python build/image/bin/python install --require-hashes --requirement deploy/constraints.txt
	$(PIP) --python build/image/bin/python install --no-deps .
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --output-reproducible --output-file dist/chatsvc.cdx.json build/image/bin/python

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
	$(PIP) install --no-compile --upgrade pip  # that of Python 3.11 takes three times as long for all the rest

# 'compat' puts the checkout itself on Python's path, where Twisted looks for twisted/plugins; with the
# finder that setuptools installs by default, twistd does not see the plugin.
.venv/installed: .venv/bin/python $(TO_INSTALL)
	$(INSTALL) '.[tui]'
	@touch $@

.venv/installed-dev: .venv/bin/python $(TO_INSTALL)
	$(INSTALL) '.[dev]'
	@touch .venv/installed $@

.venv/installed-audit: .venv/bin/python $(TO_INSTALL)
	$(INSTALL) '.[audit]'
	@touch .venv/installed $@

# Side by side, as the tests run, each process would compile all of it for itself. What cannot be imported is
# told when they run.
.venv/imported: .venv/installed-dev
	$(BIN)/pytest --collect-only -qqq >/dev/null || true
	@touch $@

$(SEMGREP): .venv/bin/python
	$(PYTHON) -m venv .venv/semgrep
	.venv/semgrep/bin/python -m pip --disable-pip-version-check --quiet install semgrep
	@touch $@

.venv/installed-bench: .venv/bin/python $(TO_INSTALL)
	$(INSTALL) '.[bench]'
	@touch .venv/installed $@
