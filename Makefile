# Every target sets itself up: venv, installation, then the work.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEBUG := debug=tiny folder=outputs/debug hydra.run.dir=outputs/debug

.PHONY: run test check lint types coverage debug clean

run: $(VENV)/.installed
	$(BIN)/python train.py +am=enabled

test: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not slow and not gpu"

check: lint types coverage debug

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

coverage: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not slow and not gpu" --cov --cov-report=term

debug: $(VENV)/.installed
	rm -rf outputs/debug
	$(BIN)/python train.py +am=enabled $(DEBUG)
	$(BIN)/python probe.py ckpt=outputs/debug/checkpoints/last.ckpt neurons='[conv2:0-3]' budget=20 hydra.run.dir=outputs/debug/probe

# The stamp is as old as the last installation; a change of either file installs again.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) outputs .coverage .mypy_cache .pytest_cache .ruff_cache
