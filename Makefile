# Every target makes the virtual environment .venv/ first if it is missing or older than pyproject.toml.
PYTHON ?= python3
PRESET ?= mini
BIN := .venv/bin
# Whole files: the tests of some share what the first of them has made.
SIDE_BY_SIDE := -n auto --dist loadfile

.PHONY: help quickstart test test-all test-cuda lab figures docs docs-notebooks lint audit clean
.DELETE_ON_ERROR:

help:
	@echo "make quickstart   the effect itself, on digits: notebooks/00_quickstart.ipynb, headless, in half its epochs"
	@echo "make test         the tests to run before a commit, minutes"
	@echo "make test-all     all tests, browser and Ray included"
	@echo "make test-cuda    the tests that need a GPU, where there is one"
	@echo "make lab          JupyterLab, with notebooks/explore.ipynb open"
	@echo "make figures      all notebooks, headless (PRESET=tiny, mini or full)"
	@echo "make docs         the site of docs/, in site/, every link checked"
	@echo "make lint         ruff on code and notebooks, mypy on the package"
	@echo "make audit        known holes in the installed packages, asked of PyPI"

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[lab,test,docs]'
	touch $@

quickstart: .venv/installed
	mkdir -p runs/notebooks/quick
	$(BIN)/python -m papermill notebooks/00_quickstart.ipynb runs/notebooks/quick/00_quickstart.ipynb \
		-p epochs 20 -p retrain_epochs 10 --log-output
	@echo "executed notebook: runs/notebooks/quick/00_quickstart.ipynb"
	@$(BIN)/python -m daas_lab.studies.quickstart runs/figures/quick/00_quickstart.json

test: .venv/installed
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow and not browser and not cluster"

test-all: .venv/installed
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-cuda: .venv/installed
	$(BIN)/python -m pytest -m cuda

lab: .venv/installed
	$(BIN)/python -m jupyter lab --ServerApp.ip=127.0.0.1 notebooks/explore.ipynb

figures: .venv/installed
	$(BIN)/daas-lab reproduce --preset $(PRESET)

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "open site/index.html; make -k docs-notebooks first adds the notebooks' pictures"

# As they stand: figures and tables from records, in seconds; those on digits search, in minutes. A notebook that fails
# leaves no page, and `make -k` goes on with the others. `explore` is nothing without a kernel.
docs-notebooks: $(patsubst %,runs/notebooks/docs/%,$(filter-out explore.ipynb,$(notdir $(wildcard notebooks/*.ipynb))))

runs/notebooks/docs/%.ipynb: notebooks/%.ipynb | .venv/installed
	mkdir -p $(@D)
	$(BIN)/python -m papermill $< $@

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: .venv/installed
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip_audit --skip-editable

clean:
	rm -rf .venv runs/notebooks site
