"""A workbench for discretization-aware architecture search: the names that a user types in a notebook.

Each is imported from its module when it is first asked for, so that `import daas_lab` stays quick.
"""

import importlib

__version__ = "0.1.0"

# Module → its names.
_FACE = {
    "compose": ("retrain_config", "search_config"),
    "config": ("RetrainConfig", "SearchConfig"),
    "data.sources": ("Dataset",),
    "errors": ("LabError",),
    "methods.check": ("check_method",),
    "methods.method": ("Architecture", "Method", "Mixture", "Moment", "Strengths"),
    "networks.kept": ("load_network",),
    "networks.supernet": ("SuperNetwork",),
    "report.drawing": ("draw_cells",),
    "runs.folder": ("read_run",),
    "runs.records": ("read_any",),
    "space.budget": ("EdgeBudget",),
    "space.cost": ("count",),
    "space.cell_space": ("Space",),
    "space.genotype": ("CellGenotype", "Edge", "Genotype"),
    "space.operations": ("load_operations",),
    "space.text_forms": ("load_genotype",),
    "studies.make": ("drops", "make_runs"),
    "studies.settings": ("Settings",),
    "train.attribution": ("attribution",),
    "train.cut": ("cut",),
    "train.discretize": ("accuracy_drops",),
    "train.evolution": ("genotype_after",),
    "train.retrain": ("retrain",),
    "train.search": ("load_supernet", "search"),
}
_MODULES = {name: module for module, names in _FACE.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'daas_lab' has no attribute {name!r}")
    return getattr(importlib.import_module(f"daas_lab.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
