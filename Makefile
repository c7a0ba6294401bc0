# Every task of the project. `make` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

help: ## list the tasks
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## install system packages and .venv with the lading command (idempotent)
	@scripts/setup.sh

check: setup ## lint, types, layering
	$(RUN)/ruff format --check
	$(RUN)/ruff check
	$(RUN)/basedpyright
	$(RUN)/lint-imports

test: check ## set up and pass every test
	$(RUN)/python -m pytest -m "not nightly" -n 2 --dist loadfile

test-nightly: check ## the long suites: crash matrices, stateful runs, large images
	$(RUN)/python -m pytest -m nightly --timeout 3600

stateful: setup ## both image stores against a model: STEPS=100000 random steps, in PROCESSES=2
	@scripts/stateful.sh

demo: setup ## show Lading at work: pull, list, run, push
	@scripts/demo.sh

daemon: setup ## leave a daemon running on a private socket
	@scripts/daemon.sh

bench: setup ## measure beside the peers (BENCH=--quick, --pairs 7 ...); raw samples in bench/results
	$(RUN)/python bench/run.py $(BENCH)

.PHONY: help setup check test test-nightly stateful demo daemon bench
