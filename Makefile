# Everything runs in the project's own environment, .venv, which is made when needed.
PYTHON ?= python3

BIN := .venv/bin
READY := .venv/.ready

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(READY) ## learn digits and their law, draw all ten, serve; out/demo/index.html
	$(BIN)/keras-tilt demo --out out/demo

test: $(READY) ## the quick tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope --durations=10

test-slow: $(READY) ## the tests that take minutes
	$(BIN)/python -m pytest -m slow --durations=10

lint: $(READY) ## style, likely errors, and the types of the package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

house: $(READY) ## the measures of the house: sizes, private names, annotations
	$(BIN)/python tests/house.py

docs: .venv-docs/.ready ## the site, without TensorFlow; out/site/index.html
	.venv-docs/bin/zensical build --clean

guides: $(READY) ## run the guides, and write their pages; about half an hour
	$(BIN)/python docs/run_guides.py

bench: $(READY) ## time of a training step against stock Keras
	$(BIN)/python benchmarks/train_step.py --out results/bench_train_step.json

bench-serving: $(READY) ## latency, size and start-up of an exported sampler
	$(BIN)/python benchmarks/serving.py --out results/bench_serving.json

bench-sampling: $(READY) ## cost and efficiency of the sampler; about three hours
	$(BIN)/python benchmarks/sampling --parts cost ess pixels --out results/bench_sampling.json

venv: $(READY) ## the environment alone

clean: ## remove the environment, results of runs, and caches
	rm -rf .venv .venv-docs out .pytest_cache .ruff_cache *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Expected Python >= 3.11. Received: $(PYTHON), $$($(PYTHON) --version 2>&1)." \
	    "Name another one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "Setting up .venv (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[test]'
	@touch $@

# The site is built from text alone, in a small environment without TensorFlow.
.venv-docs/.ready: requirements-docs.txt
	@$(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@touch $@

.PHONY: help demo test test-slow lint house docs guides bench bench-sampling bench-serving venv clean
