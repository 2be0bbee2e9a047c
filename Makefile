# The same targets are CI's steps (.ci/run). Everything runs from .venv; nothing is installed outside it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TRITON := $(VENV)/triton-only
# Tests of one process each; they run side by side, on as many cores as there are.
QUICK  := not ray and not distributed and not browser and not gpu
SOURCES := orchestrator jobs benchmarks cluster tests

.PHONY: help install triton demo test test-fast check format docs clean
help:
	@echo "make install  create $(VENV) and install everything, versions pinned by constraints.txt"
	@echo "make demo     train jobs/digits with LAMB at a global batch of 1,024 on two workers"
	@echo "make triton   put Triton beside $(VENV)'s packages, for the test of LAMB's GPU kernels"
	@echo "make test     all tests;   make test-fast: without Ray, several processes or a browser"
	@echo "make check    format, lint, spelling, strict types, layer rule, links, generated docs"
	@echo "make format   rewrite the sources in the project's format;   make docs: regenerate docs/spec.md"

install: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# Apart from everything else: DeepSpeed and torch run other code where Triton can be imported.
triton: $(TRITON)/.installed
$(TRITON)/.installed: constraints-triton.txt | install
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(TRITON) -r constraints-triton.txt
	touch $@

demo: install
	$(BIN)/orchestrator run jobs/digits/demo.yaml --new-name

test: test-fast
	$(BIN)/python -m pytest -m 'not ($(QUICK))'

test-fast: install
	$(BIN)/python -m pytest --numprocesses logical --dist loadfile -m '$(QUICK)'

check: install
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/codespell $(SOURCES) docs README.md CONTRIBUTING.md
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/house

format: install
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: install
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache artifacts
