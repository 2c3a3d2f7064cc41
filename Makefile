# Three commands on a fresh machine with Python >= 3.11: `make demo`, `make page` and `make test`.
PYTHON ?= python3
# A name on the path need not be an interpreter that runs, so each candidate is asked.
CANDIDATES = python3.13 python3.12 $(wildcard $(HOME)/.pyenv/versions/3.13*/bin/python) $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python)
NEWEST ?= $(firstword $(foreach python,$(CANDIDATES),$(shell $(python) -c 'import sys; print(sys.executable)' 2>/dev/null)))

# With the checkout itself on the path, so that notebooks find `tasks` and `benchmarks`.
EDITABLE = --config-settings editable_mode=compat --editable
# The notebooks run among the tests, whose settings of the compiler their kernels inherit.
SUITE = MAML_QUICK=1 $(1)/bin/pytest -n 2 --dist worksteal --nbmake
QUICK = tests/test_refusals.py tests/test_sampling.py tests/test_outer.py tests/test_notebooks.py

.PHONY: check demo docs notebooks page test test-slow test-newest test-older peers results lint

demo: .venv/installed
	.venv/bin/python -m benchmarks.demo

# A page to draw characters on, in the browser of this machine.
page: .venv/installed
	.venv/bin/python -m benchmarks.page --open

# Lint, types, and quick tests of what a change touches most.
check: lint
	.venv/bin/pytest -n 2 -q maml $(QUICK)

test: lint
	$(call SUITE,.venv)

lint: .venv/installed
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/pyright

test-slow: .venv/installed
	.venv/bin/pytest -m slow

# The site of the documentation, in site/; a broken link ends it.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict

# The notebooks from their scripts, with the outputs of a run; OMNIGLOT_DIR names Omniglot's folder.
notebooks: .venv/installed
	.venv/bin/python notebooks/execute.py

# The newest packages that a newer Python gets, none of them pinned.
test-newest:
	$(if $(NEWEST),,$(error no python3.13 or python3.12 found; name one with NEWEST=))
	$(NEWEST) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --upgrade $(EDITABLE) '.[tasks,dev]'
	$(call SUITE,.venv-newest)

# The adapters with the oldest packages that jax 0.10 can import; they use what jax deprecates.
test-older:
	$(PYTHON) -m venv .venv-older
	.venv-older/bin/pip install --quiet $(EDITABLE) '.[tasks,dev]' 'jax<0.11' flax==0.12.3 equinox==0.13.2 gymnax==0.0.8
	.venv-older/bin/pytest -W ignore::DeprecationWarning tests/test_gymnax.py tests/test_any_model.py tests/test_batch_norm.py

# The tables of the README and of three pages in docs/, and the figure of language models, from results/*.jsonl.
results: .venv/installed
	.venv/bin/python -m benchmarks.report.tables

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --constraint constraints.txt $(EDITABLE) '.[tasks,dev,docs]'
	touch $@

# Our meta-step against PyTorch's, which is in an environment of its own.
peers:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --constraint constraints.txt $(EDITABLE) '.[tasks]' torch==2.13.0 higher==0.2.1 torchopt==0.7.3
	.venv-peers/bin/python -m benchmarks.peers --out results/runs/peers
