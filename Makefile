# Everything starts from a bare clone: each target sets up what it needs first.
PYTHON ?= python3
environment := .venv/.complete
run := .venv/bin
# These boot the NAS test bed once and then mostly wait for leases and servers, so they run beside the others.
nas_tests := tests/system/nas tests/system/nas_cluster
# CI has the lane `long-fire` as well, with all of tests/fire and not only the quick part.
other_tests := tests $(patsubst %,--ignore=%,$(nas_tests) $(if $(CI),tests/fire))
# What failed beside others is run again when they have ended, one at a time, to tell what is broken from what is flaky: that is
# printed as FLAKY, and fails as well.
again := --again --last-failed --last-failed-no-failures none

# All tests of one call draw with one seed, also those that are run again (tests/support/drawing.py).
ifndef VMBACKUP_SEED
export VMBACKUP_SEED := $(shell date +%s)
endif

# Tests start hundreds of programs: none compiles our modules once more, whatever this shell would have.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup testbed lint test test-long everything waiting unit newest prove demo bench dist clean

help:           ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: $(environment)  ## an environment in .venv with the locked development packages

$(environment): pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(run)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[development]'
	touch $@

testbed:        ## the real VirtualBox for tests, in a chroot (root on Debian; once, about a minute)
	deploy/testbed/virtualbox/set-up

lint: $(environment)  ## style, types and the layers between packages
	$(run)/ruff check .
	$(run)/ruff format --check .
	$(run)/mypy
	$(run)/mypy --platform darwin
	$(run)/lint-imports

# In memory where that can be had: there a sync takes no time. `make test` has these tests on a disk, too, and looks longer.
in_memory := $(if $(wildcard /dev/shm),TMPDIR=/dev/shm)
unit: $(environment)  ## the fast tests alone (seconds)
	$(in_memory) $(run)/pytest -q -n auto -m 'not slow and not broad' --hypothesis-profile=quick tests/unit

newest: $(environment)  ## all units but the slow ones, on the newest Python of Debian (in the test bed), and their branch coverage
	deploy/testbed/python/run -q -n auto -m 'not slow' --hypothesis-profile=quick --cov --cov-report=term tests/unit || \
	  deploy/testbed/python/run -q --hypothesis-profile=quick $(again) tests/unit

# The lanes of tests: what each runs, and how at first. Those that are long are what `make test` skips for its length: some six minutes.
nas := $(nas_tests)
others := $(other_tests)
others_at_first := -n 2 --dist worksteal
long-copies := tests/contract/test_engine_large.py tests/system/nas/test_delta_virtualbox.py
long-fire := tests/fire
first-long-copies first-long-fire again-long-copies again-long-fire: export VMBACKUP_PROVE = 1
first-long-copies first-long-fire again-long-copies again-long-fire: export VMBACKUP_PROVE_SECONDS = 30
lane = -q -o cache_dir=.pytest_cache/$* $($*)

first-%: $(environment)
	@mkdir -p .pytest_cache && rm -f .pytest_cache/$*.failed
	$(run)/pytest $(lane) $($*_at_first) || touch .pytest_cache/$*.failed

again-%:
	@if [ -e .pytest_cache/$*.failed ]; then echo "what failed of $*, alone:"; $(run)/pytest $(lane) $(again); fi

beside := $(MAKE) --no-print-directory --keep-going --jobs 2 --output-sync=target
alone := $(MAKE) --no-print-directory --keep-going --jobs 1

test: $(environment)  ## everything: unit, protocol, contract, system, real NFS and SMB
	$(beside) first-nas first-others
	$(alone) again-nas again-others

test-long: $(environment)
	$(beside) first-long-copies first-long-fire
	$(alone) again-long-copies again-long-fire

# CI: what `make test` has, and what it skips. One lane works; the other mostly waits, and has the long tests when the NAS has had its own.
everything: $(environment)
	$(beside) first-others waiting
	$(alone) again-nas again-others again-long-copies again-long-fire

waiting: $(environment)
	$(alone) first-nas first-long-copies first-long-fire

prove: $(environment)  ## the promises, for an hour: schedules, crash points and faults, side by side; a table at the end
	$(run)/python -m deploy.prove

demo: $(environment)  ## two VirtualBox hosts, one NAS: backups, a crash, an archive, a restore, a VM that runs from its copy (2 minutes, cleans up after itself)
	$(run)/python -m deploy.demo

bench: $(environment)  ## idle ticks, transactions, exports, start-up, export engines, restores, running from a copy, many hosts: ratios and counts (half an hour on two cores that have nothing else to do)
	$(run)/python -m deploy.bench

dist: $(environment)  ## dist/: a wheel, and a single file with all programs for this platform and Python
	rm -rf dist
	$(run)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(run)/python -m deploy.single dist/vmbackup-*.whl dist

clean:          ## removes the environment and caches, not the test bed
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
