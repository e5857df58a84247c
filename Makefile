# Everything a developer types. `make help` lists it. Nothing is needed but make and Python >= 3.11.

.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin

PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# The machine's own if it is new enough, else the newest that really runs: a name may be a shim for nothing.
USABLE := -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p $(USABLE) && echo $$p && break; done)

# The benchmarks run on each of these Pythons that the machine has, or else on the one from above.
# BENCH_PYTHON=/path/to/python3 has them run on that one only.
BENCH_PYTHON ?= $(or $(shell for v in 3.12 3.13; do for p in python$$v $$HOME/.pyenv/versions/$$v.*/bin/python; do \
	$$p $(USABLE) && echo $$p && break; done; done),$(PYTHON))

# One Python after the other, each with an environment of its own; $(1) are options.
BENCHMARKS = status=0; for python in $(or $(BENCH_PYTHON),$(error no Python found; set BENCH_PYTHON=/path/to/python3)); do \
	venv=.venv-bench-$$("$$python" -c 'import sys; print("{}.{}".format(*sys.version_info))') && \
	$(MAKE) --no-print-directory BENCH_PYTHON="$$python" $$venv/.made && \
	$$venv/bin/python -m benchmarks $(1) $(ARGS) || status=$$?; done; exit $$status

.PHONY: help demo test lint types imports unit unit-all mutate bench bench-quick docs docs-parts docs-outage dashboards preview servers stack stack-native \
	stack-down clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## real traffic through real breakers; ARGS="--headless --duration 20"
	@$(BIN)/breakerscope demo $(ARGS)

FAST := tests/unit README.md docs

test: lint types imports servers ## everything: style, types, architecture, all tests
	$(BIN)/python -m pytest $(FAST) $(ARGS)
	$(BIN)/python -m pytest tests/integration $(ARGS)

unit: $(VENV)/.dev ## the fast tests only; PYTHON=python3.13 VENV=.venv-3.13 for another Python
	$(BIN)/python -m pytest $(FAST) $(ARGS)

unit-all: ## the fast tests on each Python that is supported; one that is missing is an error in CI
	@for v in 3.11 3.12 3.13; do \
		found=""; \
		for p in python$$v $$HOME/.pyenv/versions/$$v*/bin/python; do \
			if $$p -c "import sys, ensurepip, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$$v')" >/dev/null 2>&1; then \
				found=$$p; break; fi; done; \
		if [ -z "$$found" ]; then \
			echo "no Python $$v found: not tested"; [ -z "$$CI" ] || exit 1; continue; fi; \
		echo "Python $$v"; \
		$(MAKE) --no-print-directory unit PYTHON=$$found VENV=.venv-$$v || exit 1; \
	done

mutate: $(VENV)/.mutation ## mutation tests of the pure core, about 10 minutes on 2 cores; ARGS="policy"
	$(BIN)/python scripts/mutate.py $(ARGS)

bench: ## speed, memory and tail beside other breakers on Python 3.12 and 3.13, about 8 minutes each; ARGS="--only rejected"
	@$(call BENCHMARKS)

bench-quick: ## the same with fewer rounds, about 2 minutes each
	@$(call BENCHMARKS,--quick)

lint: $(VENV)/.dev ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## types, by mypy and by pyright
	$(BIN)/mypy
	$(BIN)/pyright

imports: $(VENV)/.dev ## architecture: which module may import which
	$(BIN)/lint-imports

docs: $(VENV)/.dev ## build the documentation site into build/site; a broken link is an error
	$(BIN)/python scripts/build_docs.py

docs-parts: $(VENV)/.dev ## render what the documents say about the code
	$(BIN)/python scripts/render_docs.py

docs-outage: $(VENV)/.dev servers ## go through a real outage and write what each signal showed into docs/telemetry.md
	$(BIN)/python scripts/record_outage.py

dashboards: $(VENV)/.dev ## render dashboards/ and alerts/ from the code
	$(BIN)/python scripts/render_dashboards.py

preview: $(VENV)/.dev servers ## draw the dashboards from an outage of the demo, without Grafana; ARGS="--out DIR"
	$(BIN)/python -m tests.dashboards.preview $(ARGS)

stack: ## the demo with Prometheus, Alertmanager, Grafana and Jaeger in containers; docs/stack.md
	@"$(or $(PYTHON),python3)" scripts/stack.py up $(ARGS)

stack-native: $(VENV)/.demo ## the demo with Prometheus and Alertmanager, without containers; Ctrl-C ends it
	@$(BIN)/python scripts/stack.py native

stack-down: ## stop the containers of `make stack` and remove their data
	@"$(or $(PYTHON),python3)" scripts/stack.py down $(ARGS)

servers: ## install the servers that the tests talk to, where that is possible
	@bash scripts/install_servers.sh

clean: ## remove what make made
	rm -rf $(VENV) .venv-* dist build

$(VENV)/.made:
	@"$(PYTHON)" $(USABLE) || { echo "no Python >= 3.11 with venv and pip found; set PYTHON=/path/to/python3" >&2; exit 2; }
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.mutation: $(VENV)/.made pyproject.toml
	$(PIP) --editable '.[mutation]'
	@touch $@ $(VENV)/.dev $(VENV)/.demo

.venv-bench-%/.made: pyproject.toml benchmarks/requirements.txt
	"$(BENCH_PYTHON)" -m venv $(@D)
	@echo '*' > $(@D)/.gitignore
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet --editable '.[bench]' -r benchmarks/requirements.txt
	@touch $@
