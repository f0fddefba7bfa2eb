# Every target makes the virtual environment .venv/ first if it is missing or older than pyproject.toml.
PYTHON ?= python3
PRESET ?= mini
BIN := .venv/bin
# Whole files: the tests of some share what the first of them has made. In their order: sorted by the number of tests,
# files of few long ones would come last, and a process would wait for them.
SIDE_BY_SIDE := -n auto --dist loadfile --no-loadscope-reorder

.PHONY: help quickstart test test-all test-cuda lab figures docs docs-records docs-notebooks lint audit clean
.DELETE_ON_ERROR:

help:
	@echo "make quickstart   the effect itself, on digits: notebooks/00_quickstart.ipynb, headless, in half its epochs"
	@echo "make test         the tests to run before a commit, minutes"
	@echo "make test-all     all tests, browser and Ray included"
	@echo "make test-cuda    the tests that need a GPU, where there is one"
	@echo "make lab          JupyterLab, with notebooks/explore.ipynb open"
	@echo "make figures      all notebooks, headless (PRESET=tiny, mini or full)"
	@echo "make docs         the site of docs/, in site/, every link checked, notebooks drawn from records"
	@echo "make lint         ruff on code and notebooks, mypy on the package"
	@echo "make audit        known holes in the installed packages, asked of PyPI"

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[lab,test,docs]'
	touch $@

quickstart: .venv/installed
	$(BIN)/daas-lab quickstart

test: .venv/installed
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow and not browser and not cluster"

test-all: .venv/installed
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --durations=40

test-cuda: .venv/installed
	$(BIN)/python -m pytest -m cuda

lab: .venv/installed
	$(BIN)/python -m jupyter lab --ServerApp.ip=127.0.0.1 notebooks/explore.ipynb

figures: .venv/installed
	$(BIN)/daas-lab reproduce --preset $(PRESET)

# A notebook that fails is shown as its code.
docs: .venv/installed
	-$(MAKE) --keep-going docs-records
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "open site/index.html; make -k docs-notebooks first adds the pictures of those notebooks that search"

# Drawn from published records, in seconds each, and where steps are timed in minutes; those on digits search, in minutes.
# `kept_weights` needs weights, `explore` is nothing without a kernel.
FROM_RECORDS := $(notdir $(wildcard $(patsubst %,notebooks/%.ipynb,figure_* table_* ablation_losses paper_vs_code \
	supernet_vs_retrained the_field beyond_the_gap what_closes_the_gap)))
ON_DIGITS := 00_quickstart.ipynb discretization_lab.ipynb inside_the_supernet.ipynb $(notdir $(wildcard notebooks/own_*))

docs-records: $(FROM_RECORDS:%=runs/notebooks/docs/%)

docs-notebooks: docs-records $(ON_DIGITS:%=runs/notebooks/docs/%)

# Not finished yet: what there is of it.
runs/notebooks/docs/beyond_the_gap.ipynb: OPTIONS := -p finished_only True
runs/notebooks/docs/what_closes_the_gap.ipynb: OPTIONS := -p preset quick -p dataset digits -p seeds '[0, 1]'

runs/notebooks/docs/%.ipynb: notebooks/%.ipynb | .venv/installed
	mkdir -p $(@D)
	$(BIN)/python -m papermill $< $@ $(OPTIONS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: .venv/installed
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip_audit --skip-editable

clean:
	rm -rf .venv runs/notebooks site
