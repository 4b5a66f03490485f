# Everything runs in .venv, which the first target makes; python3 and make are all that must be there.
# With TORCH=2.15.0 (any version) it runs in an environment of that version's own.
PYTHON ?= python3
VENV := .venv$(TORCH:%=-torch-%)
BIN := $(VENV)/bin
# By the environment, in place of a machine's own constraints, which could not be met together with these.
PIP := PIP_CONSTRAINT=$(VENV)/constraints.txt $(BIN)/python -m pip --disable-pip-version-check install --quiet
# One thread in each of two test workers: two cores, and no worker waits for the other's threads. Compiled modules are
# kept, whatever the environment says: the tests start Python some eighty times.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2

# A warning is an error.
SPHINX := $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet

.PHONY: help demo test test-all exhaustive record inductor matrix lint docs bench questions gpu tables clean

help:
	@echo "make demo      the Hessian of a network trained on scikit-learn's digits: products, and its spectrum on a page"
	@echo "make test      the tests, in about eight minutes on two cores; TORCH=2.15.0 runs them with that PyTorch"
	@echo "make test-all  the tests and the exhaustive ones: sweeps, coverage, large sizes (over an hour)"
	@echo "make record    the tests, as a row of the table by release of PyTorch; TORCH=2.15.0 as above"
	@echo "make inductor  every scenario and operator compiled by Inductor (an hour or so)"
	@echo "make matrix    the built wheel with the oldest and the newest PyTorch, each in an empty environment of gigabytes"
	@echo "make lint      format, lint and types"
	@echo "make docs      the site, in .site"
	@echo "make bench     the benchmark against PyTorch and its peers (installs them; about half an hour)"
	@echo "make questions  eigenvalues, traces and solves beside the peers (installs them; about half an hour)"
	@echo "make gpu       what can only be seen on a GPU, in less than nine minutes on a machine that has one"
	@echo "make tables    write the tables of README and docs from the committed results"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	sed 's/^torch==.*/$(if $(TORCH),torch==$(TORCH),&)/' constraints.txt > $(VENV)/constraints.txt
	$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.bench-installed: $(VENV)/.installed benchmarks/requirements.txt benchmarks/requirements-nodeps.txt
	$(PIP) --requirement benchmarks/requirements.txt
	$(PIP) --no-deps --requirement benchmarks/requirements-nodeps.txt
	@touch $@

demo: $(VENV)/.installed
	@mkdir -p .demo
	$(BIN)/hesse vhp examples/digits.py --products 100 --compare --out .demo/product.safetensors
	$(BIN)/hesse spectrum examples/digits.py --top 10 --out .demo/spectrum

test: $(VENV)/.installed
	$(PYTEST) -m "not exhaustive and not inductor"

exhaustive: $(VENV)/.installed
	$(PYTEST) -m exhaustive

test-all: test exhaustive

# A failure is recorded as one.
record: $(VENV)/.installed
	-$(PYTEST) -m "not exhaustive and not inductor" --junitxml $(VENV)/tests.xml
	$(BIN)/python -m benchmarks.versions $(VENV)/tests.xml
	$(BIN)/python -m benchmarks.table

# Every scenario and every operator through Inductor: an hour or so.
inductor: $(VENV)/.installed
	$(PYTEST) -m inductor
	$(BIN)/python -m tests.sweep.compiled

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The Python that makes the wheel needs nothing but pip.
matrix:
	.ci/installed 2.11.0 2.15.0

# Every internal link must lead somewhere, and every message of a translated page be translated.
docs: $(VENV)/.installed
	$(SPHINX) --builder html docs .site
	$(SPHINX) --builder html --define language=zh_TW docs .site/zh_TW
	$(BIN)/python docs/links.py .site
	$(SPHINX) --builder gettext docs .site/.gettext
	$(BIN)/python docs/translations.py .site/.gettext

bench: $(VENV)/.bench-installed
	$(BIN)/python -m benchmarks

questions: $(VENV)/.bench-installed
	$(BIN)/python -m benchmarks.questions

# With DRY=--dry it runs at small sizes on the CPU.
gpu: $(VENV)/.installed
	$(BIN)/python -m benchmarks.gpu $(DRY)

tables: $(VENV)/.installed
	$(BIN)/python -m benchmarks.table

clean:
	rm -rf .venv .venv-torch-* .demo .site .pytest_cache .mypy_cache .ruff_cache .hypothesis
