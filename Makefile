# Every target makes the virtual environment .venv/ first if it is missing or older than pyproject.toml.
PYTHON ?= python3
PRESET ?= mini
BIN := .venv/bin

.PHONY: help quickstart test lab figures lint clean

help:
	@echo "make quickstart   the effect itself, on digits: notebooks/00_quickstart.ipynb, headless"
	@echo "make test         all tests"
	@echo "make lab          JupyterLab, with notebooks/explore.ipynb open"
	@echo "make figures      all notebooks, headless (PRESET=tiny, mini or full)"
	@echo "make lint         ruff on code and notebooks"

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[lab,test]'
	touch $@

quickstart: .venv/installed
	mkdir -p runs/notebooks/quick
	$(BIN)/python -m papermill notebooks/00_quickstart.ipynb runs/notebooks/quick/00_quickstart.ipynb --log-output
	@echo "executed notebook: runs/notebooks/quick/00_quickstart.ipynb, pictures: runs/figures/quick/"

test: .venv/installed
	$(BIN)/python -m pytest

lab: .venv/installed
	$(BIN)/python -m jupyter lab notebooks/explore.ipynb

figures: .venv/installed
	$(BIN)/daas-lab reproduce --preset $(PRESET)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv runs/notebooks
