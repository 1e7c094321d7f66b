# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_SOURCE ?= /etc /usr/share/doc
DEMO_DIR ?= demo
HISTORIES ?= 1250
KILLS ?= 1000
FUZZ_SECONDS ?= 3600
BENCH_DIR ?= bench/scratch

.PHONY: help demo fleet test soak fuzz bench growth check fmt clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -e .
	touch $@

$(BIN)/.tested: pyproject.toml $(BIN)/.installed
	$(BIN)/pip install -q --disable-pip-version-check -e '.[test,dev]'
	touch $@

demo: $(BIN)/.installed ## back up, edit, back up, restore and compare a real tree (DEMO_SOURCE="/etc /usr/share/doc")
	@PATH="$(abspath $(BIN)):$$PATH" sh tests/support/demo.sh "$(DEMO_DIR)" $(DEMO_SOURCE)

fleet: $(BIN)/.tested ## three hosts back up side by side, and luigid's dashboard shows them
	@$(BIN)/python -m tests.support.fleet

test: $(BIN)/.tested ## run the whole suite, real S3 servers included
	@sh tests/support/tools.sh
	$(BIN)/python -m pytest $(PYTEST_ARGS)

soak: $(BIN)/.tested ## thousands of random histories, a thousand kills, a year of edits (an hour or more)
	@sh tests/support/tools.sh
	VAULTIK_HISTORIES=$(HISTORIES) VAULTIK_KILLS=$(KILLS) VAULTIK_DAYS=365 \
		$(BIN)/python -m pytest tests/history tests/fault/test_random_kills.py tests/fault/test_restore_kills.py \
		tests/property/test_watched.py

fuzz: $(BIN)/.tested ## hostile bytes for every reader of what is stored or configured (FUZZ_SECONDS=3600); what is found stays in fuzz-found
	$(BIN)/python -m tests.fuzz --seconds "$(FUZZ_SECONDS)"

bench: $(BIN)/.tested ## time it beside restic, borg and the plain tools (BENCH_DIR=a tmpfs of 5 GB)
	@sh tests/support/tools.sh
	$(BIN)/python -m bench.peers --work "$(BENCH_DIR)" --json bench/peers.json --picture docs/bench.svg

growth: $(BIN)/.tested ## how time and memory grow: a million files, 10,000 bundles, 100 GB, delay (BENCH_DIR=a tmpfs of 14 GB)
	@sh tests/support/tools.sh
	$(BIN)/python -m bench.growth --work "$(BENCH_DIR)" --json bench/growth.json

check: $(BIN)/.tested ## lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(BIN)/.tested ## format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean: ## remove everything that was made here
	rm -rf $(VENV) $(DEMO_DIR) bench/scratch fuzz-found build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
