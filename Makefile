# LoTLIP: everything that is run here, `make help` lists it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export GX_ANALYTICS_ENABLED := false
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export RAY_USAGE_STATS_ENABLED := 0
# A stage's script finds `dvc`, `lotlip` and Python in the environment, whoever calls it.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install demo ablation test lint bench bench-gpu rehearsal ui clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(VENV)/installed ## create .venv from requirements.txt

$(VENV)/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v == (3, 11) else f"Python 3.11 is needed, this is {v[0]}.{v[1]}: install it, or name it: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing pinned packages (a few minutes, about 2.5 GB) ..."
	@$(BIN)/python -m pip install --quiet --upgrade pip==26.3
	@$(BIN)/python -m pip install --quiet -r requirements.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: install ## run the whole workflow on the embedded sample and compare the models
	@$(BIN)/dvc repro
	@$(BIN)/lotlip track
	@$(BIN)/lotlip summary

ablation: install ## train the methods of a table with several seeds, and write it: NAME=corner_tokens JOBS=2 SEEDS="0 1 2"
	@$(BIN)/python -m flows.sweep $(or $(NAME),$(error say which table, e.g. make ablation NAME=corner_tokens, or NAME=all)) --jobs $(or $(JOBS),1) $(if $(SEEDS),--seeds $(SEEDS))
	@$(BIN)/lotlip table $(NAME)

test: install lint ## lint, types, import layers and all tests
	@$(BIN)/python -m pytest

lint: install ## style, types and import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: install ## benchmarks, each against a peer in the same process
	@for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

bench-gpu: install ## on a GPU: equality with the CPU, then retrieval, the training step and its kernels
	$(BIN)/python benchmarks/gpu/check_equality.py
	$(BIN)/python benchmarks/gpu/bench_retrieval.py
	$(BIN)/python benchmarks/gpu/bench_step.py --profile

rehearsal: install ## the whole graph on 600 pictures over faulty HTTP, from and to S3 (needs ../shared/data/pictures)
	@$(BIN)/python -m tests.rehearsal --s3

ui: install ## MLflow and Prefect servers on loopback; Ctrl-C stops both
	@$(BIN)/python -m flows.ui

clean: ## remove what runs have made (never the environment), and say what that frees
	@for path in data models reports .work .dvc/cache .dvc/tmp mlruns mlflow.db .prefect dvc_plots; do \
		if [ -e $$path ]; then du -sh $$path | awk '{print "freed " $$1 "\t" $$2}'; rm -rf $$path; fi; done
	@echo "kept .venv (rm -rf .venv frees it too)"
