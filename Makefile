# Two commands matter: `make quickstart` and `make test`. Both create .venv here; a second run starts at once.
# The newest that every simulator has a wheel for: labmaze (of dm_control) ends at 3.12.
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do $$p -c "" 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow test-beam test-ray test-tpu test-gpu lint format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quickstart: $(VENV)/.installed ## demonstrations -> tokens -> training -> prompted agent -> runs/quickstart/report.html
	$(BIN)/gato quickstart $(ARGS)

# A worker a core, a file to a worker: its fixtures are made once. XLA's costly passes are left out: compiling is most of
# what these tests wait for. The slow tests have them.
test: lint ## format, lint, types and the fast tests (what .ci/run calls)
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(BIN)/pytest --numprocesses=auto --dist=loadfile $(ARGS)

test-slow: $(VENV)/.installed-dev ## the tests marked slow (one needs the Debian package `chromium`)
	$(BIN)/pytest -m slow $(ARGS)

test-beam: .venv-beam/.installed ## the import on Apache Beam, in .venv-beam: an environment of its own
	.venv-beam/bin/python -m pytest tests/data_pipelines/test_import_beam.py $(ARGS)

test-ray: .venv-ray/.installed ## evaluation on a local Ray cluster, in .venv-ray: an environment of its own
	.venv-ray/bin/python -m pytest tests/gato/evaluation/test_ray_executor.py $(ARGS)

test-tpu: .venv-tpu/.installed ## the training step through the TPU compiler, in .venv-tpu; needs no TPU, takes minutes
	.venv-tpu/bin/python -m pytest -m "slow or not slow" tests/gato/planning $(ARGS)

test-gpu: .venv-gpu/.installed ## the training step through the GPU compiler, in .venv-gpu; needs no GPU, takes minutes
	JAX_PLATFORMS=cpu .venv-gpu/bin/python -m pytest -m "slow or not slow" tests/gato/planning $(ARGS)

lint: $(VENV)/.installed-dev ## ruff (format and lint) and mypy, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## rewrite the files as ruff wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and the caches, keep runs/
	rm -rf $(VENV) .venv-beam .venv-ray .venv-tpu .venv-gpu .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || { \
	  echo "make: the simulators need Python 3.11 or 3.12, but $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	       "install one and name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "make: $(PYTHON) cannot create environments; on Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing what is needed into $(VENV): about a minute"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[suites,serve]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[suites,formats,dev]'
	@touch $@

.venv-beam/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python -m pip install --disable-pip-version-check --quiet --editable '.[formats,beam]' pytest pytest-timeout
	@touch $@

.venv-tpu/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[tpu]' pytest pytest-timeout
	@touch $@

.venv-gpu/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[gpu]' pytest pytest-timeout
	@touch $@

.venv-ray/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[ray]' pytest pytest-timeout
	@touch $@
