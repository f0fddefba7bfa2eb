"""Published cells by name, as printed with each method's code.

`published.json` has them in the form of `Genotype.to_json`, each with its source (repository, file, name there), what
the source states of sizes, and a remark. Edges that carry `none` and nodes that no edge enters are left out of a cell.
"""

import json
from pathlib import Path

from daas_lab.space.genotype import Genotype

_CELLS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

PUBLISHED = {cell["name"]: Genotype.from_json({"format": 1} | cell) for cell in _CELLS}

# Name → `source`; where there are any, `stated` (form → parameters and multiply-adds in millions, as they are printed,
# None where not) and `remark`.
SOURCES = {cell["name"]: {key: cell[key] for key in ("source", "stated", "remark") if key in cell} for cell in _CELLS}
