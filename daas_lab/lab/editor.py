"""Changing a discrete cell edge by edge: what the cell editor of `widgets.py` does, without its controls."""

import functools
import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from daas_lab.errors import LabError, refuse
from daas_lab.lab.explorer import labels, read_search
from daas_lab.runs.files import write_atomically
from daas_lab.space.cost import count
from daas_lab.space.genotype import CellGenotype, Genotype
from daas_lab.space.operations import OPERATIONS, Operation, own_texts
from daas_lab.space.text_forms import PUBLISHED, load_genotype
from daas_lab.studies.settings import Settings
from daas_lab.train.evolution import genotype_after


def starting_cells(found: Mapping[str, Path]) -> list[tuple[str, str]]:
    """(label, name) of what an edit may start from: the searches of `explorer.searches`, then the published cells."""
    return [*labels(found), *((name, name) for name in PUBLISHED)]


def starting_cell(name: str, found: Mapping[str, Path]) -> Genotype:
    """The cell that a search under its own budget would keep now, or a published one."""
    if name in found:
        run = read_search(found[name])
        return genotype_after(run)
    return load_genotype(name)


def change_edge(
    genotype: Genotype, cell_type: str, index: int, operation: str | None = None, source: int | None = None
) -> Genotype:
    """The genotype with another operation or source on the edge `index` of a cell; `LabError` if it cannot exist."""
    cell = genotype.cell(cell_type)
    changes: dict[str, Any] = {"operation": operation, "source": source}
    edge = cell.edges[index]._replace(**{name: value for name, value in changes.items() if value is not None})
    try:
        changed = CellGenotype((*cell.edges[:index], edge, *cell.edges[index + 1 :]), cell.concat)
    except LabError as error:
        raise LabError(f"{cell_type} cell: {error}") from error
    return replace(genotype, **{cell_type: changed})


def size_text(genotype: Genotype) -> str:
    """Parameters and multiply-adds of the paper's CIFAR-10 network of these cells."""
    return _size_text(genotype, tuple(OPERATIONS.values()))


@functools.lru_cache(maxsize=256)
def _size_text(genotype: Genotype, operations: tuple[Operation, ...]) -> str:
    """`operations`: what the names stand for; one of one's own may have been edited since the last time."""
    numbers = count(genotype)
    parameters, multiply_adds = numbers["parameters"], numbers["multiply_adds"]
    return (
        f"{parameters:,} parameters, {multiply_adds / 1e6:,.1f} M multiply-adds "
        "(CIFAR-10 network of the paper: 36 channels, 20 cells)"
    )


def export(genotype: Genotype, path: str | Path, settings: Settings) -> str:
    """Write the genotype as JSON and return the command that trains it from scratch under these settings."""
    path = Path(path)
    if path.suffix != ".json":
        raise refuse("file", str(path), "a name that ends in .json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refuse("file", str(path), f"in a folder that can be made ({error.strerror})") from error
    write_atomically(path, json.dumps(genotype.to_json(), indent=2) + "\n")
    own = own_texts(genotype)
    where = ["--preset", settings.preset, "--dataset", str(settings.dataset), "--data", str(settings.data)]
    files = ["--genotype", str(path), "--out", str(path.with_suffix(""))]
    epochs = [] if settings.retrain_epochs is None else ["--epochs", str(settings.retrain_epochs)]
    device = [] if settings.device == Settings.device else ["--device", settings.device]
    operations = ["--set", f"operations={','.join(own)}"] if own else []
    return shlex.join(["daas-lab", "retrain", *files, *where, *epochs, *device, *operations])
