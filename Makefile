# Needs git, make and a python3 (3.11 or newer) with venv. The rest is set up by what needs it.

PYTHON ?= python3
SITE ?= dir
ARGS ?=
# Many tests wait for processes that they start, so there are more at a time than cores.
JOBS ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 2) + 2)))

VENV := .venv
BIN := $(VENV)/bin
# What is installed follows from the lock, the project's own metadata and the interpreter: a change
# in any is another stamp, so a checkout that changed is installed anew and all else is quick.
INSTALLED_FROM := requirements-dev.lock pyproject.toml
PYTHON_VERSION := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null)
STAMP := $(VENV)/.holdfast-$(PYTHON_VERSION)-$(shell cat $(INSTALLED_FROM) | cksum | tr ' ' '-')
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --upgrade \
	--generate-hashes --no-emit-index-url --no-header

.DEFAULT_GOAL := help
.PHONY: help demo test chaos soak simulate check bench bench-jobs bench-fleet bench-sites tools venv lock clean

help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(STAMP) ## Back up, break and recover real files in a minute (SITE=dir or SITE=minio)
	@$(BIN)/python deploy/tools/fetch.py restic $(if $(filter minio,$(SITE)),minio)
	@SITE=$(SITE) $(BIN)/python deploy/demo/demo.py $(ARGS)

test: $(STAMP) tools ## Run every test (ARGS goes to pytest)
	@echo "test: pytest, $(JOBS) files at a time"
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: $(STAMP) tools ## Kill and freeze everything for an hour (ARGS: --chaos-seconds, --chaos-seed); writes docs/chaos.md
	@$(BIN)/python -m pytest -q -s tests/chaos/test_everything_at_random.py -k everything \
		--chaos-seconds=3600 --chaos-report=docs/chaos.md $(ARGS)

soak: $(STAMP) tools ## Kill all that works, for an hour, under thousands of sources (ARGS as chaos); writes docs/soak.md
	@$(BIN)/python -m pytest -q -s tests/chaos/test_soak.py --soak-sources=2000 \
		--chaos-seconds=3600 --chaos-report=docs/soak.md $(ARGS)

simulate: $(STAMP) ## Play 100,000 schedules of faults against the failover's machine (ARGS: --schedules, --first)
	@$(BIN)/python -m tests.support.simulation $(ARGS)

check: $(STAMP) ## Format, lint, types and layers, as strict as CI
	@echo "check: ruff format"
	@$(BIN)/ruff format --check .
	@echo "check: ruff"
	@$(BIN)/ruff check .
	@echo "check: mypy"
	@$(BIN)/mypy
	@echo "check: import-linter"
	@$(BIN)/lint-imports

bench: $(STAMP) tools ## Measure against stock restic (ARGS goes to the runner; RESTIC= names another)
	@$(BIN)/python benchmarks/run.py $(ARGS)

bench-jobs: $(STAMP) tools ## Measure the job system: rates, latency, memory (ARGS goes to it)
	@$(BIN)/python -m benchmarks.jobs $(ARGS)

bench-fleet: $(STAMP) tools ## Measure a large fleet: ticks, scrapes, idle agents, many workers, similar hosts (ARGS chooses)
	@$(BIN)/python -m benchmarks.fleet $(ARGS)

bench-sites: $(STAMP) tools ## Measure several sites: replication against rclone, the ledger rebuilt (ARGS chooses)
	@$(BIN)/python deploy/tools/fetch.py rclone
	@$(BIN)/python -m benchmarks.several $(ARGS)

tools: $(STAMP) ## Fetch what the tests need besides wheels, into a cache outside the checkout
	@$(BIN)/python deploy/tools/fetch.py

venv: $(STAMP) ## Make the virtual environment alone

# An environment of another Python version is made anew; one of the same version is brought up to date.
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is missing or older than 3.11: make PYTHON=python3.x names another" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' \
		|| { echo "$(PYTHON) has no venv: install it (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "set-up: installing the locked dependencies into $(VENV) (Python $(PYTHON_VERSION), under a minute, once)"
	@test "$$($(BIN)/python -V 2>/dev/null)" = "Python $(PYTHON_VERSION)" || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --require-hashes --only-binary :all: -r requirements-dev.lock
	@$(PIP) install --no-index --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.holdfast-*
	@touch $@

lock: $(STAMP) ## Resolve the dependencies anew and write both lock files
	@echo "lock: resolving for Python 3.11 and newer"
	@$(PIP) install --only-binary :all: uv
	@$(COMPILE) --extra embedded -o requirements.lock
	@$(COMPILE) --extra embedded --extra dev -c requirements.lock -o requirements-dev.lock

clean: ## Remove the environment and all caches in the checkout
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
