# make demo   the main job, on built-in data: a base MLLM, its SFT and DPO branches, and what became of their encoders
# make test   the tests (fast ones first)
# make check  lint, format, types, import directions
# make bench  speed and memory against the alternatives
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# faiss-cpu and faiss-gpu install the same files: exactly one of them, by what the machine has.
FAISS := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo cuda || echo cpu)

.PHONY: demo test test-fast test-slow check bench clean
.DEFAULT_GOAL := demo

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,$(FAISS),dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/visprobe demo

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q

test-fast: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' -n 2 -q

test-slow: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n 2 -q

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_house.py

bench: $(VENV)/.installed
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) visprobe-demo
