"""Notebooks as members of a sweep: which ones a file asks for, whether they are executed, and how that is done.

    notebook:                                       # one, or a list of them
      path: notebooks/table_2_lambda_c.ipynb        # or a list; from here, or from the sweep file's folder
      parameters: {budget: [8/14, 4/14]}            # every combination of the lists is a member of its own

The names are those of the notebook's `parameters` cell; where that gives a list, a list is one value. What the sweep
file says at its top (preset, data set, seeds, …) is a parameter too where the notebook has it.
"""

import ast
import hashlib
import itertools
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from daas_lab.errors import LabError, imported, refuse, suggestion
from daas_lab.fields import refuse_unknown
from daas_lab.own_files import expanded
from daas_lab.runs.lock import locked
from daas_lab.studies.settings import Settings, parse_settings

PLACES = ("runs", "data", "device", "workers")  # where a notebook computes, not what


@dataclass(frozen=True)
class NotebookRun:
    """One notebook with its parameters; `name` is the same exactly for the same cells and parameters."""

    path: Path
    parameters: str  # as JSON
    name: str
    epochs: int = 1  # in the progress bar

    def executed(self, settings: Settings) -> Path:
        """Where its executed copy is kept, once it has come to its end."""
        return settings.runs / "notebooks" / self.name / self.path.name


def read_notebooks(entries: Any, top: Mapping[str, Any], folder: Path) -> list[NotebookRun]:
    """The notebooks that a sweep file in `folder` asks for; `top`: settings given to each that has them."""
    runs: dict[NotebookRun, None] = {}
    for entry in entries if isinstance(entries, list) and entries else [entries]:
        if not isinstance(entry, Mapping):
            raise refuse("notebook", entry, "path, and parameters with their values")
        refuse_unknown("notebook", entry, ("path", "parameters"))
        paths, given = entry.get("path"), entry.get("parameters", {})
        if not isinstance(given, Mapping):
            raise refuse("notebook: parameters", given, "names, each with a value or a list of values")
        for path in paths if isinstance(paths, list) and paths else [paths]:
            runs |= dict.fromkeys(_members(_file(path, folder), given, top))
    return list(runs)


def _file(path: Any, folder: Path) -> Path:
    if isinstance(path, str) and "\0" not in path:
        for file in (expanded(path), folder / path):
            if file.is_file():
                return file.resolve()
    raise refuse("notebook: path", path, "a notebook's file")


def _members(file: Path, given: Mapping[str, Any], top: Mapping[str, Any]) -> Iterator[NotebookRun]:
    sources, own = _read(file)
    # `read_settings` takes every setting, whether the cell names it or not.
    known = [*own, *(spec.name for spec in fields(Settings) if any("read_settings(" in text for text in sources))]
    for name in given:
        if name not in known:
            names = ", ".join(dict.fromkeys(known)) or "none, for it has no cell tagged parameters"
            raise LabError(f"{file} has no parameter {name!r}{suggestion(name, known)}; known: {names}")
    whole = {name for name, value in own.items() if isinstance(value, (ast.List, ast.Tuple))} | {"seeds"}
    lists = [value if isinstance(value, list) and name not in whole else [value] for name, value in given.items()]
    for values in itertools.product(*lists):
        chosen = {name: value for name, value in top.items() if name in known} | dict(zip(given, values, strict=True))
        try:
            texts = [json.dumps(part, sort_keys=True) for part in (chosen, _without_places(chosen))]
        except (TypeError, ValueError, RecursionError) as error:
            raise refuse("notebook: parameters", dict(given), f"texts, numbers and lists ({error})") from error
        if known[len(own) :]:
            parse_settings({name: value for name, value in chosen.items() if name in known[len(own) :]})
        digest = hashlib.sha256("\0".join([*sources, texts[1]]).encode()).hexdigest()[:10]
        yield NotebookRun(file, texts[0], f"{file.stem}-{digest}")


def _without_places(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in PLACES}


def _read(path: Path) -> tuple[list[str], dict[str, ast.expr]]:
    """The texts of a notebook's cells, and name → value of what its `parameters` cell assigns."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells]
        tagged = [
            text
            for cell, text in zip(cells, sources, strict=True)
            if cell["cell_type"] == "code" and "parameters" in cell.get("metadata", {}).get("tags", [])
        ]
        tree = ast.parse("\n".join(tagged[:1]))  # papermill's choice too, where there are several
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SyntaxError, RecursionError) as error:
        raise LabError(f"{path} is no notebook of Python that can be read: {error}") from error
    assigned: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            assigned |= {target.id: node.value for target in targets if isinstance(target, ast.Name)}
    return sources, assigned


def execute(notebook: NotebookRun, settings: Settings) -> None:
    """Run a notebook from its first cell to its last, as papermill does, unless its executed copy is there.

    The copy that is being made lies beside it, and stays where a cell fails. Where another process is already at it,
    this one waits. Runs that the notebook asks for are reused and go on where they were.
    """
    papermill = imported("papermill", "lab")
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of settings that the cell leaves out
    done = notebook.executed(settings)
    with locked(done.parent, patience=math.inf):
        if done.is_file():
            return
        half = done.with_suffix(".unfinished.ipynb")
        try:
            papermill.execute_notebook(
                notebook.path, half, json.loads(notebook.parameters), cwd=notebook.path.parent, progress_bar=False
            )
        except Exception as error:  # of a cell, or of the kernel that died in it
            said = f"{error.ename}: {error.evalue}" if isinstance(error, papermill.PapermillExecutionError) else error
            line = f"cell {_cells_begun(half)} of {half}: {said}"
            raise LabError(" ".join(line.split())) from None
        os.replace(half, done)


def _cells_begun(executed: Path) -> int:
    """How many cells of code papermill has come to."""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"] if executed.is_file() else []
    noted = [cell["metadata"].get("papermill", {}) for cell in cells if cell["cell_type"] == "code"]
    return sum(note.get("start_time") is not None for note in noted)
