# Every target does its own set-up: `make demo` and `make test` work in a fresh clone with Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test check bench clean
demo: $(VENV)/.demo
	$(BIN)/sigprune run quickstart --out runs/quickstart --force

test: $(VENV)/.test
	$(BIN)/python -m pytest -p no:cacheprovider

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_structure.py -p no:cacheprovider

bench: $(VENV)/.demo
	$(BIN)/python benchmarks/score_cost.py

clean:
	rm -rf $(VENV) runs

# One stamp per set of dependencies; the package itself is installed in place.
$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

$(VENV)/.check: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[check,test]"
	touch $@
