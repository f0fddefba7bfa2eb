"""Records: what a finished run leaves behind when it is published, small enough for git.

A record holds the configuration, the metrics of every epoch, accuracy drops, genotype and result, α and β to four
digits, versions, machine and seconds. It stands for its run wherever no network weights are needed.
"""

import contextlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from daas_lab.config import RetrainConfig, SearchConfig
from daas_lab.errors import LabError, refuse
from daas_lab.identity import checked_config, config_hash, to_document
from daas_lab.runs.files import write_atomically
from daas_lab.runs.folder import Run, kind_of, read_config, read_run
from daas_lab.runs.provenance import origin_in
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.space.genotype import Genotype
from daas_lab.space.operations import named_operations

FORMAT = 1
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # of a record when it is read
DIGITS = 4  # of α and β, after the point
SMALL = 0.1  # what is below this has as many digits that count: before α moves, noise of 1e-4 says who leads
LARGE = 1e3  # what is as large as this is written in whole numbers: a candidate that has left, by 1e4


def write_record(run: Run, path: str | Path) -> None:
    """Write a finished run's record."""
    if not run.finished:
        raise LabError(f"run = {str(run.folder)!r}: must be finished before it leaves a record")
    arrays = {
        kind: {name: _digits(array).tolist() for name, array in getattr(run, kind).items()}
        for kind in ("alphas", "betas")
    }
    document = {
        "format": FORMAT,
        "kind": kind_of(run.config),
        "hash": config_hash(run.config),
        "config": to_document(run.config),
        **run.origin,
        "seconds": round(run.seconds, 1),
        "genotype": run.genotype and run.genotype.to_json(),
        "result": run.result,
        "gap": run.gap,
        **({"cells": run.cells} if run.cells else {}),
        "history": run.history,
        **arrays,
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # One key a line: readable, and a change of one part shows as one line.
    lines = (f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in document.items())
    write_atomically(Path(path), "{\n" + ",\n".join(lines) + "\n}\n")


def _digits(array: np.ndarray) -> np.ndarray:
    array = array.astype(float)
    rounded = np.where(abs(array) < LARGE, array.round(DIGITS), array.round())
    small = (abs(array) < SMALL) & (array != 0)
    rounded[small] = [float(f"{value:.{DIGITS}g}") for value in array[small]]
    return rounded


def config_of(path: str | Path) -> SearchConfig | RetrainConfig:
    """The configuration of a folder or of a record, of which nothing is read that comes after it."""
    if Path(path).suffix != ".json":
        return read_config(path)
    head: dict[str, Any] = {}
    with open(path, encoding="utf-8") as lines, contextlib.suppress(LabError, *DAMAGED):
        for line in itertools.islice(lines, 1, None):
            head |= json.loads("{" + line.rstrip().rstrip(",") + "}")
            if {"format", "kind", "hash", "config"} <= head.keys() and head["format"] == FORMAT:
                return checked_config(head)
    return read_record(path).config  # of other lines, or damaged, which is said there


def read_any(path: str | Path) -> Run:
    """The run of a folder, or of a record: a .json file."""
    return read_record(path) if Path(path).suffix == ".json" else read_run(path)


def _arrays(document: Mapping[str, list], dimensions: int) -> dict[str, np.ndarray]:
    """Cell type → α [T, E, O] or β [T, E]; of a run without them nothing."""
    arrays = {name: np.array(values, dtype=float) for name, values in document.items()}
    if arrays and (arrays.keys() != set(CELL_TYPES) or any(own.ndim != dimensions for own in arrays.values())):
        raise ValueError(f"α and β must be of {' and '.join(CELL_TYPES)} cells, with {dimensions} dimensions")
    return arrays


def read_record(path: str | Path) -> Run:
    """The run that a record stands for; its `folder` is None, for there are no weights."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(document, dict) or "kind" not in document:
            raise LabError("no record of a run: must be a run's folder, or a record")
        if document["format"] != FORMAT:
            raise LabError(f"format = {document['format']!r}: must be {FORMAT}")
        config = checked_config(document)
        if isinstance(config, SearchConfig):
            named_operations(config.operations, config.operations_digest)
        return Run(
            folder=None,
            config=config,
            history=document["history"],
            seconds=document["seconds"],
            finished=True,
            alphas=_arrays(document["alphas"], 3),
            betas=_arrays(document["betas"], 2),
            genotype=document["genotype"] and Genotype.from_json(document["genotype"]),
            gap=document["gap"],
            result=document["result"],
            origin=origin_in(document),
            cells=document.get("cells", {}),
        )
    except FileNotFoundError:
        raise refuse("run", str(path), "a run's folder, or a record; there is no such file") from None
    except LabError as error:
        raise type(error)(f"{path}: {error}") from None
    except DAMAGED as error:
        raise LabError(f"damaged record {path}: {error!r}; without it, the run is made again") from error
