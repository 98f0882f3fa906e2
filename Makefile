# pagemerge: `make demo` and `make test` set up all they need, in .venv and target of this
# checkout. Each step leaves a stamp in .venv, so the second run does only what changed.

.DEFAULT_GOAL := help
.PHONY: help demo test build lint types rust python properties soak race kills fuzz fuzz-images differential \
	selftests bench package packages wheel deb manual docs clean
.DELETE_ON_ERROR:
.NOTPARALLEL: # pip and maturin change the same .venv; cargo and mypy use the cores by themselves

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
# ARGS go to the program: make demo ARGS="--workers 8", make python ARGS="-k status".
ARGS ?=
SECONDS ?= 600
KILLS ?= 200

# Build for the Python of .venv, whatever environment the caller is in.
export VIRTUAL_ENV := $(VENV)
export PYO3_PYTHON := $(BIN)/python
export PIP_QUIET := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport CONDA_PREFIX PYTHONHOME PYTHONPATH

SOURCES := pyproject.toml Cargo.toml Cargo.lock packaging/backend.py packaging/archive.py \
	$(shell find crates -name '*.rs' -o -name '*.toml' -o -name '*.c')

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' $(MAKEFILE_LIST) | \
		while IFS=: read -r name text; do printf '  make %-13s%s\n' "$$name" "$$text"; done

demo: build ## merge real duplicate memory of a few processes, and show what it saved
	@$(BIN)/pagemerge demo $(ARGS)
	@echo "To run pagemerge yourself: '. .venv/bin/activate', or call .venv/bin/pagemerge" >&2

test: lint types rust python ## all checks: format, lint, types, Rust tests, Python tests

build: $(VENV)/.built ## the package with its Rust core, in .venv

lint: $(VENV)/.test ## rustfmt, clippy, ruff
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	cargo clippy --package pagemerge-preload --features all --quiet -- -D warnings
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .

types: build $(VENV)/.test ## mypy --strict, and the stub of the core against the module
	$(BIN)/mypy --strict
	$(BIN)/mypy --strict benchmarks
	@# PyO3 adds __all__ by itself; __buffer__ has a name in Python from 3.12 on only (PEP 688).
	@printf 'pagemerge[.]_core[.]%s\n' __all__ Memory.__buffer__ >$(VENV)/stubtest-allowed
	$(BIN)/python -m mypy.stubtest --concise --mypy-config-file pyproject.toml \
		--allowlist $(VENV)/stubtest-allowed pagemerge._core

# The binding has no tests of its own, and linking it outside an interpreter needs libpython.
rust: $(VENV)/.test ## the tests of the Rust crates
	cargo test --workspace --exclude pagemerge-python --quiet

python: build $(VENV)/.test ## the Python tests
	$(BIN)/python -m pytest $(ARGS)

properties: build $(VENV)/.test ## the tests of properties with new examples, ten times as many: ARGS="-k views"
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=search --timeout=900 $(ARGS)

soak: build $(VENV)/.test ## half an hour of hostile use of the user engine, into docs/reliability.md: ARGS="--minutes 45 --seed 7"
	@$(BIN)/python -m tests.soak --report docs/reliability.md $(ARGS)

race: build $(VENV)/.test ## ten minutes of each race with writers and virtual machines: SECONDS=60
	for barrier in move write-protect park; do \
		PAGEMERGE_RACE_SECONDS=$(SECONDS) PAGEMERGE_RACE_BARRIERS=$$barrier \
			$(BIN)/python -m pytest -s tests/integration/test_race.py $(ARGS) || exit 1; done
	PAGEMERGE_KVM_SECONDS=$(SECONDS) $(BIN)/python -m pytest -s tests/integration/test_kvm.py $(ARGS)

kills: build $(VENV)/.test ## kill parts of the service 200 times at random moments, under load: KILLS=1000
	PAGEMERGE_SERVICE_KILLS=$(KILLS) $(BIN)/python -m pytest -s $(ARGS) \
		tests/integration/test_service.py -k killed_at_random_moments

selftests: build $(VENV)/.test ## the kernel's memory tests and CPython's, bare and beside an agent: ARGS="--only cow"
	@$(BIN)/python -m tests.selftests $(ARGS)

fuzz: build $(VENV)/.test ## a million hostile messages to a hub, into docs/reliability.md: ARGS="--messages 5000000"
	@$(BIN)/python -m tests.fuzz --report docs/reliability.md $(ARGS)

fuzz-images: build $(VENV)/.test ## a million damaged memory images: ARGS="--inputs 5000000 --seed 2"
	@$(BIN)/python -m tests.images_fuzz $(ARGS)

differential: build $(VENV)/.test ## a million random memory calls, bare and merged, into docs/reliability.md: ARGS="--calls 5000 --seed 2"
	@$(BIN)/python -m tests.differential --report docs/reliability.md \
		--keep tests/differential/kept $(ARGS)

bench: build ## the benchmarks, one after the other
	@for file in benchmarks/*.py; do echo "== $$file"; \
		$(BIN)/python "$$file" || [ $$? -eq 77 ] || exit 1; done

package: build $(VENV)/.test ## pack the sources, install them by pip in a new environment, and try that
	PAGEMERGE_PACKAGE=1 $(BIN)/python -m pytest tests/integration/test_package.py $(ARGS)

wheel: $(VENV)/.run ## a wheel for every Linux with glibc 2.28 or newer, in dist (gets the Zig compiler)
	@packaging/portable $(BIN)/python dist

deb: wheel ## a Debian package in dist, for the Debian whose Python it names: ARGS="--python 3.13"
	@$(BIN)/python packaging/deb "$$(ls -t dist/pagemerge-*.whl | head -n 1)" dist $(ARGS)

manual: build ## man pages and completions, in dist/share
	@PYTHONPATH=packaging $(BIN)/python -m manual dist

docs: build ## the documentation as a site, in dist/docs
	$(BIN)/python -m pip install --quiet $$($(BIN)/python packaging/docsite/needs.py)
	PYTHONPATH=packaging $(BIN)/python -m docsite dist

packages: build $(VENV)/.test ## build each package, install it in a clean place, and try that
	PAGEMERGE_PACKAGE=1 $(BIN)/python -m pytest tests/integration/test_package.py \
		tests/integration/test_wheel.py tests/integration/test_debian.py $(ARGS)

clean: ## remove everything that was built here, .venv too
	rm -rf .venv target dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache
	find python tests -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/pagemerge/*.so

# PYTHON=... makes a .venv of another Python anew.
WHICH := import sys; print(sys.base_prefix, *sys.version_info[:3])
ifneq ($(PYTHON),)
ifneq ($(shell { $(PYTHON) -c '$(WHICH)'; } 2>&1),$(shell { $(BIN)/python -c '$(WHICH)'; } 2>&1))
.PHONY: $(VENV)/.run
endif
endif

# A new Python or a new list of packages: everything after it is redone.
$(VENV)/.run: pyproject.toml bootstrap
	@./bootstrap run
	@touch $@

$(VENV)/.test: pyproject.toml bootstrap $(VENV)/.run
	@./bootstrap test
	@touch $@

$(VENV)/.built: $(SOURCES) $(VENV)/.run
	@echo "building the Rust core (a minute or two for the first time)"
	$(BIN)/python -m pip install --no-build-isolation --no-deps --editable .
	@touch $@
