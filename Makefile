# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TOOLS := build/tools
LOCK = $(TOOLS)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"
PIP_INSTALL := pip install -q --disable-pip-version-check
# What is locked is the whole answer: pip is not to look for another (one asked for by an extra, `coverage[toml]`,
# would be the newest, which has no hash here), and what is built is built by what is locked (requirements/build.in).
PIP_LOCKED := $(PIP_INSTALL) --require-hashes --no-deps --no-build-isolation
DEMO_SOURCE ?= /etc /usr/share/doc
DEMO_DIR ?= demo
HISTORIES ?= 1250
KILLS ?= 1000
FUZZ_SECONDS ?= 3600
BENCH_DIR ?= bench/scratch

.PHONY: help demo fleet test soak fuzz bench growth check fmt lock audit sbom clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# As a user has it: whatever pyproject.toml allows.
$(BIN)/.installed: pyproject.toml | $(BIN)/pip
	$(BIN)/$(PIP_INSTALL) -e .
	touch $@

# As it is tested: what is locked, and nothing else.
$(BIN)/.tested: pyproject.toml requirements/build.txt requirements/dev.txt | $(BIN)/pip
	$(BIN)/$(PIP_LOCKED) -r requirements/build.txt
	$(BIN)/$(PIP_LOCKED) -r requirements/dev.txt
	$(BIN)/$(PIP_INSTALL) --no-build-isolation --no-deps -e .
	$(BIN)/pip check
	touch $(BIN)/.installed $@

$(TOOLS)/.installed: requirements/build.txt requirements/tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/$(PIP_LOCKED) -r requirements/build.txt
	$(TOOLS)/bin/$(PIP_LOCKED) -r requirements/tools.txt
	$(TOOLS)/bin/pip check
	touch $@

demo: $(BIN)/.installed ## back up, edit, back up, restore and compare a real tree (DEMO_SOURCE="/etc /usr/share/doc")
	@PATH="$(abspath $(BIN)):$$PATH" sh tests/support/demo.sh "$(DEMO_DIR)" $(DEMO_SOURCE)

fleet: $(BIN)/.tested ## three hosts back up side by side, and luigid's dashboard shows them
	@$(BIN)/python -m tests.support.fleet

test: $(BIN)/.tested ## run the whole suite, real S3 servers included
	@sh tests/support/tools.sh
	$(BIN)/python -m pytest $(PYTEST_ARGS)

soak: $(BIN)/.tested ## thousands of random histories, a thousand kills, every write failing, a year of edits, all of /usr (hours)
	@sh tests/support/tools.sh
	VAULTIK_HISTORIES=$(HISTORIES) VAULTIK_KILLS=$(KILLS) VAULTIK_DAYS=365 VAULTIK_EVERY_WRITE=1 \
		$(BIN)/python -m pytest tests/history tests/fault/test_random_kills.py tests/fault/test_restore_kills.py \
		tests/fault/test_faulty_disk.py \
		tests/property/test_watched.py
	VAULTIK_ENTRIES=100000 VAULTIK_SYSTEM_TREE=/usr VAULTIK_FILE_SYSTEMS="btrfs xfs tmpfs" \
		$(BIN)/python -m pytest tests/e2e/test_fidelity.py

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

lock: $(TOOLS)/.installed ## pin what pyproject.toml allows, with hashes, in requirements/ (LOCK_ARGS=--upgrade: the newest)
	$(LOCK) $(LOCK_ARGS) -o requirements/build.txt requirements/build.in
	$(LOCK) $(LOCK_ARGS) --extra test --extra dev -o requirements/dev.txt pyproject.toml
	$(LOCK) -c requirements/dev.txt -o requirements/runtime.txt pyproject.toml
	$(LOCK) $(LOCK_ARGS) -o requirements/tools.txt requirements/tools.in

audit: $(TOOLS)/.installed ## look what is locked up among the known vulnerabilities
	@$(TOOLS)/bin/python requirements/audit.py $(TOOLS)/bin/pip-audit build/audit.json $(AUDIT_ARGS) \
		-r requirements/build.txt -r requirements/dev.txt

sbom: $(TOOLS)/.installed ## write what runs beside vaultik to build/sbom.json (CycloneDX)
	rm -rf build/wheels build/runtime
	$(TOOLS)/bin/pip wheel -q --disable-pip-version-check --require-hashes --no-deps --no-build-isolation -w build/wheels -r requirements/runtime.txt
	$(PYTHON) -m venv --without-pip build/runtime
	$(TOOLS)/bin/pip -q --disable-pip-version-check --python build/runtime install --no-index --no-deps build/wheels/*.whl
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
		-o build/sbom.json build/runtime
	rm -r build/wheels build/runtime

clean: ## remove everything that was made here
	rm -rf $(VENV) $(DEMO_DIR) bench/scratch fuzz-found build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
