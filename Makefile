# Each target sets up what it needs: a virtual environment in .venv, with the versions of constraints.txt.
# ARGS is passed on: make test ARGS='-k retry', make demo ARGS=--exit

SHELL = /bin/sh
PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/installed

.DEFAULT_GOAL = help
.PHONY: help demo social up test check bench chaos screenshots lock clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

demo: $(STAMP) ## See it work: queue offline, kill workers, judge what arrives; ARGS=--exit ends by itself
	@$(BIN)/fluxy-sync demo $(ARGS)

social: $(STAMP) ## Run the social example: posts that show at once, whether its server is up or down
	@$(BIN)/python -m examples.social $(ARGS)

up: $(STAMP) ## Run a gateway until Ctrl-C; needs FLUXY_SYNC_UPSTREAM
	@$(BIN)/fluxy-sync up $(ARGS)

test: $(STAMP) ## Run the tests; ARGS goes to pytest
	@$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

check: $(STAMP) ## Lint, formatting, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## Measure this product beside plain Celery
	@$(BIN)/python -m benchmarks $(ARGS)

chaos: $(STAMP) ## Try to lose, double, reorder or read an operation, by every fault there is; FULL=1 takes its time
	@$(BIN)/python -m tests.chaos $(if $(FULL),--full) $(ARGS)

screenshots: $(STAMP) ## Make the pictures in docs/images; needs chromium and chromium-driver
	@$(BIN)/python -m tests.browser.screenshots
	@$(BIN)/python -m tests.browser.social_images

lock: $(STAMP) ## Make deploy/requirements.lock anew, from pyproject.toml and constraints.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.9'
	@$(BIN)/uv pip compile pyproject.toml deploy/build-requirements.in --extra dashboard --constraint constraints.txt \
	    --universal --python-version 3.11 --generate-hashes --no-annotate --quiet --upgrade \
	    --custom-compile-command 'make lock' --output-file deploy/requirements.lock

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "make: Python 3.11 or later is needed as $(PYTHON): install the Debian package python3 (of Debian 12 or later), or name another: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make: $(PYTHON) lacks its venv module: install the Debian package python3-venv" >&2; exit 2; }
	@echo "Setting up $(VENV) ..." >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
