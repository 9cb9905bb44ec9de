# Everything that a developer or a newcomer runs. Stamps in the virtual environment make a second run quick.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The interpreter that the virtual environment is made with; 3.11 or newer.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
MINUTES ?= 25
KILLS ?= 500
# Options for pytest: make test ARGS="tests/unit -x"; in one process, with what it prints: ARGS="tests/unit -n 0 -s"
ARGS ?=
SECONDS ?= 60
COVERED := .coverage
# Tests of models that mount.
MOUNTING := tests/model/test_mounted_model.py tests/model/test_warm_kernel.py

.PHONY: help install demo test test-deep check coverage format crash torture fuzz bench copybench profile reference ways clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Install system packages that are missing, a virtual environment, and snapfs in it
	@echo "Installed: $(VENV)/bin/snapfs. For mount(8) and fstab: sudo $(VENV)/bin/snapfs install-helpers"

demo: $(VENV)/.installed ## See it work: files, snapshots and a restore on a real mount, in under two minutes
	@$(RUN) examples/demo.py

# Four processes on two processors: tests that mount wait as much as they compute. See `tests/harness/scheduling.py`.
test: $(VENV)/.installed $(VENV)/.test-packages ## Run all tests
	$(RUN) -m pytest --numprocesses 4 $(ARGS)

# It stops by itself: every test that samples has an equal share of the time. See `tests/harness/effort.py`.
test-deep: $(VENV)/.installed $(VENV)/.test-packages ## Look at other and many more samples than `make test` does: MINUTES=25
	SNAPFS_DEEP=$$(($(MINUTES) * 60)) $(RUN) -m pytest --numprocesses 2 $(ARGS)

check: $(VENV)/.installed ## Lint, formatting, types, layers
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	@cat $(COVERED)/by-package 2>/dev/null || echo "Nothing was measured of what tests run here: make coverage"

# The tracer takes 1.4 times as long, which would not fit what `make test` may take. So it is measured apart, and `make check` shows
# the last measurement. Of what mounts, nothing is: daemons would have to end by themselves to say what they ran.
coverage: $(VENV)/.installed ## Measure which lines run in tests without a mount: ARGS="tests/unit"
	@rm -rf $(COVERED) && mkdir $(COVERED)
	$(RUN) -m coverage run -m pytest --numprocesses 2 -m "not slow" $(or $(ARGS),tests/unit tests/model $(MOUNTING:%=--ignore=%))
	@$(RUN) -m coverage combine --quiet
	@$(RUN) -m tests.harness.coverage_table | tee $(COVERED)/by-package

format: $(VENV)/.installed ## Format the source, mend what the linter can mend
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

crash: $(VENV)/.installed ## Many more crash states than `make test` runs: MINUTES=25
	SNAPFS_DEEP=$$(($(MINUTES) * 60)) $(RUN) -m pytest -s tests/crash/test_power_loss.py tests/crash/test_copy_power_loss.py

torture: $(VENV)/.installed ## Kill the daemon under load again and again: nothing acknowledged may be missing: KILLS=500
	SNAPFS_KILLS=$(KILLS) $(RUN) -m pytest -s tests/crash/test_kill.py -k kills_lose_nothing

fuzz: $(VENV)/.fuzz-packages ## Fuzz decoders, hostile volumes and requests to a daemon, guided by coverage: SECONDS=60; what it learns stays in .fuzz
	$(RUN) -m tests.fuzz.fuzz decoders $$(($(SECONDS) / 4))
	$(RUN) -m tests.fuzz.fuzz control $$(($(SECONDS) / 4))
	$(RUN) -m tests.fuzz.fuzz volume $$(($(SECONDS) - $(SECONDS) / 4 - $(SECONDS) / 4))

bench: $(VENV)/.installed $(VENV)/.bench-packages ## Measure against other filesystems: ARGS="--quick", ARGS=--help
	@$(RUN) tests/benchmarks/bench.py $(ARGS)

copybench: $(VENV)/.installed ## Measure what a full copy costs those who write meanwhile
	@$(RUN) tests/benchmarks/copying.py $(ARGS)

ways: $(VENV)/.installed ## Count the modules that a write, an fsync, a snapshot, a restore and a read pass
	@$(RUN) tests/benchmarks/ways.py $(ARGS)

profile: $(VENV)/.profile-packages ## See where a daemon spends its time: ARGS="--workload snapshots", ARGS=--help; stacks stay in .profile
	@$(RUN) tests/benchmarks/profiling.py $(ARGS)

reference: $(VENV)/.installed ## Make the reference of commands and mount options anew
	$(RUN) -m snapfs.cli.reference > snapfs/doc/reference.new
	mv snapfs/doc/reference.new snapfs/doc/reference.md

clean: ## Remove the virtual environment and everything generated
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .fuzz $(COVERED) .profile .failing
	find snapfs tests examples -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.system-packages: .ci/system-packages
	@.ci/system-packages $(PYTHON)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("snapfs needs Python 3.11 or newer: make PYTHON=/path/to/python3")'
	@mkdir -p $(VENV) && touch $@

$(VENV)/.test-packages: .ci/system-packages
	@.ci/system-packages $(PYTHON) test
	@mkdir -p $(VENV) && touch $@

# Peers of the benchmark: one that cannot be installed is left out there.
$(VENV)/.bench-packages: .ci/system-packages
	@mkdir -p $(VENV)
	@if .ci/system-packages $(PYTHON) bench; then touch $@; else echo "make bench goes on with the peers that are there"; fi

$(VENV)/.installed: pyproject.toml $(VENV)/.system-packages
	@echo "Installing snapfs and its Python packages into $(VENV)"
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.profile-packages: pyproject.toml $(VENV)/.installed
	@echo "Installing the profiler into $(VENV)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[profile]'
	@touch $@

$(VENV)/.fuzz-packages: pyproject.toml $(VENV)/.installed
	@echo "Installing the fuzzer into $(VENV)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]' || \
		echo "atheris cannot be installed here, for the reason above: inputs will be random, not guided by coverage"
	@touch $@
