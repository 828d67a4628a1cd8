# Every target works from a fresh clone: the environment in .venv is made on first use
# and made again when pyproject.toml or the pins change.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2

.PHONY: help setup demo test test-long check format docs bench loadtest agree soak notebooks clean
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.ready ## make the environment in .venv (once; again when pins change)

.venv/.ready: pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hooklab needs Python 3.11 or newer; try: make PYTHON=python3.12 setup")'
	@echo 'making .venv and installing into it: a minute or two, once'
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## simulate the dreamkas scenario, print its table, draw its picture into .demo/
	$(BIN)/hooklab run dreamkas --out .demo

test: setup ## the tests (under ten minutes on two cores)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadgroup -m 'not long'

test-long: setup ## the long suites: more seeds, larger runs
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadgroup -m long

check: setup ## style, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## render the docstrings of sim and loadtest into .docs/
	$(BIN)/python tests/render_docs.py .docs

bench: setup ## benchmarks: ratios measured side by side in one run
	$(BIN)/python tests/bench/engines.py
	$(BIN)/python tests/bench/scale.py
	$(BIN)/python tests/bench/startup.py
	$(BIN)/python tests/bench/sweep.py
	$(BIN)/python tests/bench/dispatcher.py
	$(BIN)/python tests/bench/generator.py

loadtest: setup ## the load test of .github/workflows/loadtest.yml, with its gates
	$(BIN)/hooklab loadtest .github/loadtest-scenario.yaml --out .loadtest \
		--gate 'lost_share==0' --gate 'delivery_latency_s_p99[endpoint=healthy]<2s' \
		--gate 'within_share{30s}>=99.9%' --gate 'lateness_s_p99<250ms'

agree: setup ## bundled scenarios simulated and run for real, side by side (ten minutes)
	$(BIN)/python tests/bench/agreement.py

soak: setup ## ten minutes of load at a steady rate: nothing lost, no memory that grows
	$(BIN)/python -m tests.bench.soak

notebooks: setup ## run the notebooks in full and store their outputs (a quarter of an hour on two cores)
	$(BIN)/python tests/run_notebooks.py

clean: ## remove the environment and everything generated
	rm -rf .venv .demo .docs .loadtest .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
