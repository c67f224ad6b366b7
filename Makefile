# Everything starts from a bare clone: each target sets up what it needs first.
PYTHON ?= python3
environment := .venv/.complete
run := .venv/bin
# These boot the NAS test bed once and then mostly wait for leases and servers, so they run beside the others.
nas_tests := tests/system/nas tests/system/nas_cluster
# In CI `make test-long` follows, which has all of tests/fire and not only the quick part.
other_tests := tests $(patsubst %,--ignore=%,$(nas_tests) $(if $(CI),tests/fire))
# What failed beside others is run again, one at a time, to tell what is broken from what is flaky: that is printed as FLAKY, and fails as well.
again := --again --last-failed --last-failed-no-failures none

# Tests start hundreds of programs: none compiles our modules once more, whatever this shell would have.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup testbed lint test test-nas test-others test-long long-copies long-fire everything waiting unit newest prove demo bench dist clean

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
	$(in_memory) $(run)/pytest -q -n auto -m 'not slow' --hypothesis-profile=quick tests/unit

newest: $(environment)  ## the units on the newest Python of Debian (in the test bed), and their branch coverage
	deploy/testbed/python/run -q -n auto -m 'not slow' --hypothesis-profile=quick --cov --cov-report=term tests/unit || \
	  deploy/testbed/python/run -q --hypothesis-profile=quick $(again) tests/unit

test: $(environment)  ## everything: unit, protocol, contract, system, real NFS and SMB
	$(MAKE) --no-print-directory --keep-going --jobs 2 --output-sync=target test-nas test-others

test-nas: $(environment)
	$(run)/pytest -q -o cache_dir=.pytest_cache/nas $(nas_tests) || $(run)/pytest -q -o cache_dir=.pytest_cache/nas $(again) $(nas_tests)

test-others: $(environment)
	$(run)/pytest -q -n 2 --dist worksteal $(other_tests) || $(run)/pytest -q $(again) $(other_tests)

# What `make test` skips for its length: some six minutes.
long_copies := tests/contract/test_engine_large.py tests/system/nas/test_delta_virtualbox.py
long = -o cache_dir=.pytest_cache/$@
long-copies long-fire: export VMBACKUP_PROVE = 1
long-copies long-fire: export VMBACKUP_PROVE_SECONDS = 30
test-long: $(environment)
	$(MAKE) --no-print-directory --keep-going --jobs 2 --output-sync=target long-copies long-fire

long-copies: $(environment)
	$(run)/pytest -q $(long) $(long_copies) || $(run)/pytest -q $(long) $(again) $(long_copies)

long-fire: $(environment)
	$(run)/pytest -q $(long) tests/fire || $(run)/pytest -q $(long) $(again) tests/fire

# CI: `test` and `test-long` at once. One lane works; the other mostly waits, and has the long tests when the NAS has had its own.
everything: $(environment)
	$(MAKE) --no-print-directory --keep-going --jobs 2 --output-sync=target test-others waiting

waiting: $(environment)
	$(MAKE) --no-print-directory --keep-going --jobs 1 test-nas long-copies long-fire

prove: $(environment)  ## the promises, for an hour: schedules, crash points and faults, side by side; a table at the end
	$(run)/python -m deploy.prove

demo: $(environment)  ## two VirtualBox hosts, one NAS: backups, a crash, an archive, a restore, a VM that runs from its copy (2 minutes, cleans up after itself)
	$(run)/python -m deploy.demo

bench: $(environment)  ## idle ticks, transactions, exports, start-up, export engines, restores, running from a copy, many hosts: ratios and counts (12 minutes)
	$(run)/python -m deploy.bench

dist: $(environment)  ## dist/: a wheel, and a single file with all programs for this platform and Python
	rm -rf dist
	$(run)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(run)/python -m deploy.single dist/vmbackup-*.whl dist

clean:          ## removes the environment and caches, not the test bed
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
