# Everything a developer or a first visitor runs. Needs Python 3.11 or later; neither root, GPU, account nor hub.
PYTHON ?= python3
VENV ?= .venv
SEEDS ?= 10000
BIN := $(VENV)/bin
DEMO_HOME ?= $(CURDIR)/demo-output
# A tiny model is 10 to 30 times slower on two OpenMP threads than on one.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help env demo test check lint types imports format docs lock benchmark simulate simulate-coverage clean

help:
	@echo 'make demo       teach a small base model one drawn robot on this machine and show the pictures'
	@echo 'make test       the whole suite, linters included'
	@echo 'make check      linters and types only'
	@echo 'make benchmark  measurements beside named rivals'
	@echo 'make simulate   SEEDS=10000 schedules of everything that can go wrong'
	@echo 'make simulate-coverage  the branches that decide, reached by 240 schedules or by named tests'
	@echo 'make docs       the generated parts of docs/ anew'
	@echo 'make lock       pin the trainer dependencies anew (remote_trainer/requirements.lock)'

env: $(VENV)/.complete

# On Linux PyPI's torch is the CUDA build; PyTorch's own index has a small one for CPUs. A pip that is configured to
# look elsewhere (a mirror, a folder of wheels) is left alone. pip is not quiet here: its bar is all that moves.
ifeq ($(shell uname -s)/$(shell $(PYTHON) -m pip config list 2>/dev/null | grep -cE 'index-url|find-links'),Linux/0)
INSTALL_TORCH = $(BIN)/python -m pip install -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch \
  || { echo 'that index does not answer: asking the usual one, whose build for Linux is several GB'; \
  $(BIN)/python -m pip install -c constraints.txt torch; }
else
INSTALL_TORCH = $(BIN)/python -m pip install -c constraints.txt torch
endif

# Torch first and by itself: any other way may pull gigabytes of CUDA that a laptop has no use for.
$(VENV)/.complete: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { printf 'error: `$(PYTHON)` is missing or older than 3.11\n\nhint: make demo PYTHON=python3.12\n' >&2; exit 1; }
	@echo 'making $(VENV), once: about 500 MB to download, 1.6 GB on the disk, some minutes'
	@echo
	@echo '1 of 3: an environment with its own pip'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@echo '2 of 3: PyTorch for the CPU, about 200 MB'
	@$(INSTALL_TORCH)
	@echo '3 of 3: the rest, about 300 MB in 160 packages; nothing moves for a minute while pip unpacks them'
	@$(BIN)/python -m pip install -c constraints.txt --editable '.[train]' --group dev
	@touch $@

demo: env
	@rm -rf '$(DEMO_HOME)'
	@CLOUDBOOTH_HOME='$(DEMO_HOME)/state' $(BIN)/cloudbooth launch examples/toybox/robot.toml --yes \
	  --set 'output.folder=$(DEMO_HOME)/models'
	@echo
	@echo 'what the judge counts, before and after training (95 % interval):'
	@$(BIN)/python examples/toybox/score.py --rounds 1 '$(DEMO_HOME)/state/runs/robot' '$(DEMO_HOME)/models/robot/diffusers'
	@CLOUDBOOTH_HOME='$(DEMO_HOME)/state' $(BIN)/cloudbooth report robot --out '$(DEMO_HOME)/report.html' >/dev/null
	@echo
	@echo 'the model:                 $(DEMO_HOME)/models/robot/diffusers'
	@echo 'pictures before and after: $(DEMO_HOME)/models/robot/before-after.png'
	@echo 'the run on one page:       $(DEMO_HOME)/report.html'
	@echo
	@echo 'next, a picture of it:'
	@echo "  CLOUDBOOTH_HOME='$(DEMO_HOME)/state' $(BIN)/cloudbooth generate robot 'a photo of sks robot on the beach' --to '$(DEMO_HOME)/pictures'"
	@echo 'or the grid of the README:'
	@echo "  $(BIN)/python examples/toybox/grid.py '$(DEMO_HOME)/models/robot/diffusers' '$(DEMO_HOME)/grid.png'"

# One process more than cores: most tests wait for a server, a child or a clock. A file stays in one process, for what its
# fixtures train or build is dear. `.venv/bin/python -m pytest` runs one by one.
test: env check
	$(BIN)/python -m pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist loadfile --no-loadscope-reorder

check: env lint types imports

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

imports:
	$(BIN)/lint-imports

docs: env
	PYTHONPATH=. $(BIN)/python docs/generate_cli.py

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: env
	$(BIN)/python -m pytest tests/benchmarks -m benchmark -s

# Needs uv. Pins stay as they are unless constraints.txt says otherwise. Torch is left out: a host keeps its own, or
# gets the build that fits its driver.
lock:
	printf "torch ; sys_platform == 'never'\n" > .no-torch.txt
	uv pip compile remote_trainer/requirements.in --constraint constraints.txt --override .no-torch.txt \
	  --python-version 3.11 --python-platform linux --generate-hashes --no-config \
	  --default-index https://pypi.org/simple --no-emit-index-url --custom-compile-command 'make lock' \
	  --output-file remote_trainer/requirements.lock
	rm -f .no-torch.txt

simulate: env
	$(BIN)/python -m tests.simulation.run --seeds $(SEEDS) --processes $$(getconf _NPROCESSORS_ONLN)

simulate-coverage: SEEDS = 240
simulate-coverage: env
	$(BIN)/python -m tests.simulation.branches --seeds $(SEEDS)

clean:
	rm -rf $(VENV) demo-output
