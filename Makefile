# Two commands do everything on a machine with Python >= 3.11, pip and make:
#   make demo    install into .venv, simulate a 4D-STEM scan, analyse it, say where the pictures are
#   make test    install into .venv with the tools for development, run every check
# One more compares with LiberTEM, run as a black box in a Python that has it:
#   make peer PEER=/path/to/python
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Tests that kill workers, measure what is left, or need all cores: no more than four files at a time, however many cores.
# What fails there because the machine was busy otherwise is tried again; the output shows it, and how it failed, as RERUN.
AGAIN = --reruns 2 --reruns-delay 2 --rerun-show-tracebacks -r aR
# One more than there are cores, for tests wait for programs that they start.
PROCESSES = $$($(BIN)/python -c 'import os; print(1 + len(os.sched_getaffinity(0)))' 2>/dev/null || echo auto)
# In the order of tests/conftest.py: what takes longest begins first, and little is left to wait for at the end.
TOGETHER = --dist loadfile --no-loadscope-reorder
APART = tests/testing tests/cluster tests/examples/test_thread_each.py tests/executor

# uv installs ten times as fast; where it cannot be had, or does not find what pip finds, pip does it.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
INSTALL = $(PIP) uv && $(BIN)/python -m uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable
# Nobody compiles what is installed as editable; where Python is told not to write bytecode, each start would do that.
COMPILE = $(BIN)/python -m compileall -q src

.PHONY: demo test check types kernels peer fix clean

demo: $(VENV)/.installed-demo
	$(BIN)/tilework demo --out tilework-demo --overwrite

test: $(VENV)/.installed-dev
	$(MAKE) check

check:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) --jobs 2 types kernels
	$(BIN)/python -m pytest $(AGAIN) -n $(PROCESSES) $(TOGETHER) $(APART:%=--ignore %)
	$(BIN)/python -m pytest $(AGAIN) -n 4 $(TOGETHER) $(APART)

types:
	$(BIN)/mypy
	$(BIN)/lint-imports

# Compiled here, on the cores that mypy does not use; or processes that test would compile the same at the same time.
kernels:
	$(BIN)/tilework warmup

peer: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/peer --peer '$(PEER)'

fix: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("tilework needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": call make PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	$(INSTALL) '.[plot]' || $(PIP) --editable '.[plot]'
	$(COMPILE)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(INSTALL) '.[dev]' || $(PIP) --editable '.[dev]'
	$(COMPILE)
	@touch $@

clean:
	rm -rf $(VENV) tilework-demo build dist
