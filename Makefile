# make run    install into .venv, then prune, transfer and score on the embedded default
# make test   install what tests need, and run them; make slow runs those that take minutes
#
# A second call reuses .venv; delete that folder to install anew. PYTHON chooses the interpreter,
# TORCH the build of torch, such as TORCH=torch==2.11.0 beside an older CUDA driver.
PYTHON ?= python3
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
PIP := $(BIN)/python -m pip install -c constraints.txt
HOW := $(if $(wildcard $(INSTALLED)),reused as it stands,made)

.PHONY: run install test slow

run: install
	$(BIN)/python tools/quickstart.py

install: $(INSTALLED)
	@echo "Environment: $(VENV) ($(HOW))"

test: $(TESTABLE)
	@echo "Environment: $(VENV) ($(HOW))"
	$(BIN)/python -m pytest

slow: $(TESTABLE)
	$(BIN)/python -m pytest -m slow --timeout=3600
	HYPOTHESIS_PROFILE=new_draws $(BIN)/python -m pytest $$(grep -l "^@given" -r tests)

# torch goes first, so that nothing else chooses its build.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	$(PIP) -e .
	@touch $@

$(TESTABLE): $(INSTALLED)
	$(PIP) -e ".[test]"
	@touch $@
