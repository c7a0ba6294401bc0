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
	$(RUN)/python -m pytest -m "not nightly"

.PHONY: help setup check test
