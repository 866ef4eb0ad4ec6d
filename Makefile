# Everything is installed into VENV, once: a stamp file there says with which extras.
VENV ?= .venv
PYTHON ?= python3
# Where the site is built.
DOCS_OUT ?= build/docs
CONSTRAINTS := constraints.txt

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS)

.PHONY: help demo swarm-demo test optimized soak lint docs
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.installed ## Install checkfree and compare six ways through the same lost stages
	$(BIN)/checkfree compare configs/demo.yaml --out runs/demo

swarm-demo: $(VENV)/.installed-swarm ## Train across processes of which two are killed
	rm -rf runs/swarm-demo
	$(BIN)/checkfree swarm up configs/swarm_demo.yaml out=runs/swarm-demo

test: export OMP_NUM_THREADS = 1
test: $(VENV)/.installed-test ## Install what tests need and run them
	$(BIN)/python -m pytest -n 2

optimized: export OMP_NUM_THREADS = 1
optimized: export PYTHONOPTIMIZE = 1
optimized: $(VENV)/.installed-test ## The tests, or TESTS, with python -O: nothing of ours is asserted
	$(BIN)/python -m pytest -n 2 $(TESTS)

soak: export OMP_NUM_THREADS = 1
soak: $(VENV)/.installed-test ## Hours: chaos a thousand times, fleets that come and go, cut links
	CHECKFREE_SOAK=1 $(BIN)/python -m pytest -n 2
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python benchmarks/exact.py
	$(BIN)/python benchmarks/churn.py
	$(BIN)/python benchmarks/elastic.py --walks 200
	$(BIN)/python benchmarks/cuts.py
	$(BIN)/python benchmarks/notices.py
	$(BIN)/python benchmarks/line.py

lint: $(VENV)/.installed-dev ## Check style, types and who imports whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict checkfree
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs ## Build the site, where a warning is an error, into build/docs
	$(BIN)/sphinx-build -W --keep-going -b html docs $(DOCS_OUT)

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-swarm: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	$(INSTALL) --editable '.[swarm]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-test: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	$(INSTALL) --editable '.[test]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-swarm

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	$(INSTALL) --editable '.[test,dev]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-swarm $(VENV)/.installed-test

$(VENV)/.installed-docs: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	$(INSTALL) --editable '.[docs]'
	touch $@ $(VENV)/.installed
