# Everything happens in $(VENV), which make creates.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.PHONY: quickstart test lint bench clean

# threads that wait without spinning leave the cores to the loader's workers
quickstart: $(VENV)/.plots
	OMP_WAIT_POLICY=PASSIVE $(BIN)/accelerate launch --quiet --cpu --num_processes 1 --num_machines 1 --mixed_precision no \
		--dynamo_backend no --num_cpu_threads_per_process $(CORES) \
		-m cutmix_zoo.train --config quickstart --resume auto

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(CORES)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.plots
	$(BIN)/cutmix-zoo bench mixing

clean:
	rm -rf $(VENV) build dist

# torch and torchvision are resolved in one command, so that they match
$(VENV)/.plots: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[plots]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.plots

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "cutmix_zoo needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' \
		|| { echo "this Python cannot make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
