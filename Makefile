# make run    install into .venv, then prune, transfer and score on the embedded default
# make test   install what tests need, and run them; make slow runs those that take minutes, and make hosts
# make hosts  the contract tests and a downstream training in the other host, in .venv-espnet
# make wheel  build the source archive and the wheel into dist/, and use the wheel away from the clone
# make gpu    on a machine with an NVIDIA GPU: measure inference, training and memory, in ten minutes, into gpu/
# make docs   build the documentation into site/, strictly
# make release  refuse unless the tree is clean and CHANGELOG.md names the version; then build and check the source archive,
#             the wheel and the documentation, and print what to publish. Nothing is uploaded.
# make lint   ruff (rules and format), spelling, and mypy
#
# A second call reuses .venv; delete that folder to install anew. PYTHON chooses the interpreter,
# TORCH the build of torch, such as TORCH=torch==2.11.0 for an older CUDA driver. HOST is the s3prl to run in: s3prl, or
# espnet for its maintained fork (in another VENV; both write the same module). `make hosts` tries the fork in .venv-espnet.
PYTHON ?= python3
TORCH ?= torch==2.13.0
HOST := s3prl
# Number of test processes, each with one test file at a time and one or two GB of memory.
WORKERS := 2
# Where `make gpu` writes; a folder that has no results yet.
OUTPUT := gpu

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
PIP := $(BIN)/python -m pip install -c constraints.txt
HOW := $(if $(wildcard $(INSTALLED)),reused,new)

# Every contract and workaround, and one downstream training, under the other host; pip check says that pip keeps it.
HOST_TESTS := tests/contract tests/test_compat.py tests/test_compat_experts.py tests/test_compat_hosts.py tests/test_main.py \
    tests/superb/running/test_run.py

.PHONY: run install lint test slow gpu docs wheel release hosts test-host

run: install
	$(BIN)/python tools/quickstart.py

install: $(INSTALLED)
	@echo "Environment: $(VENV) ($(HOW))"

test: $(TESTABLE)
	@echo "Environment: $(VENV) ($(HOW))"
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(TESTABLE)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell *.md *.py docs s3prl_pruned benchmarks tests tools upstream_configs
	$(BIN)/mypy

slow: $(TESTABLE)
	$(BIN)/python -m pytest -m slow --timeout=3600
	HYPOTHESIS_PROFILE=new_draws $(BIN)/python -m pytest $$(grep -l "^@given" -r tests)
	$(MAKE) hosts

gpu: $(TESTABLE)
	$(BIN)/python -m benchmarks.gpu --output $(OUTPUT)

docs: $(INSTALLED)
	$(PIP) -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(TESTABLE)
	rm -rf dist
	$(BIN)/python -m build
	.ci/check_wheel dist/*.whl $(VENV)

# The wheel is built from the source archive, so that trying the wheel tries both.
release:
	.ci/release check
	$(MAKE) wheel
	$(PIP) -e ".[release]"
	$(BIN)/python -m twine check --strict dist/*
	$(MAKE) docs
	.ci/release summary

hosts:
	$(MAKE) VENV=.venv-espnet HOST=espnet test-host

test-host: $(TESTABLE)
	$(BIN)/python -m pip check
	$(BIN)/python -m pytest $(HOST_TESTS)

# torch goes first, so that nothing else chooses its build.
$(INSTALLED): setup.cfg setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	$(PIP) -e ".[$(HOST)]"
	@touch $@

$(TESTABLE): $(INSTALLED)
	$(PIP) -e ".[$(HOST),test]"
	@touch $@
