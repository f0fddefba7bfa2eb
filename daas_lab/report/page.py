"""Runs as one HTML page that needs nothing but a browser: no server, no network, no script from elsewhere.

Curves are matplotlib's and cells those of `drawing.py`, as SVG in the page. The heat maps are tables of numbers, which
can be read aloud, copied and printed; a few lines of script in `page.html` put those of another epoch into them. The
template escapes every text of a run. Where a run lacks a part, a sentence says why.

Legend: T = epochs + 1 entries of an evolution, index 0 = the start; E edges of a cell; O operations.
"""

import contextlib
import hashlib
import json
import re
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from daas_lab.compose import options_of, values_of
from daas_lab.config import SearchConfig
from daas_lab.errors import LabError, refuse
from daas_lab.identity import config_hash
from daas_lab.methods import rules
from daas_lab.own_files import is_own
from daas_lab.report.drawing import cells_svg
from daas_lab.report.plots import CELL_NAMES, svg_text
from daas_lab.report.plots_evolution import accuracies
from daas_lab.report.tables import images_of
from daas_lab.runs.files import write_atomically
from daas_lab.runs.folder import Run, kind_of
from daas_lab.runs.lock import writer
from daas_lab.runs.provenance import machine_text, origin_text
from daas_lab.runs.records import read_any
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.space.operations import operation_colour
from daas_lab.train.discretize import STAGES, weight_evolution
from daas_lab.train.evolution import gap_evolution, genotype_after, genotype_evolution

TEMPLATE = Path(__file__).parent / "page.html"
KINDS = {"search": "searches", "retrain": "retrainings"}


def save_page(paths: str | Path | Iterable[str | Path], out: str | Path, command: str = "") -> None:
    """Write the page of runs, given as folders or as records. Raises `LabError` for a path that is no run, before
    anything is written; a damaged run has its place in the page, where the damage is named.

    `command`: the one that makes the page, to be named in it.
    """
    places = list(dict.fromkeys(map(Path, [paths] if isinstance(paths, (str, Path)) else paths)))
    for path in places:
        if not _is_run(path):
            raise refuse("run", str(path), "a run's folder, or a record")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    text = page(places, command)
    write_atomically(Path(out), text.encode(errors="backslashreplace"))  # a path need not be UTF-8


def _is_run(path: Path) -> bool:
    """Whether there is a run at `path`, be it a damaged one."""
    if path.suffix != ".json" or not path.is_file():
        return (path / "config.json").is_file()
    with contextlib.suppress(ValueError):
        document = json.loads(path.read_bytes())
        return isinstance(document, dict) and {"format", "kind", "config"} <= document.keys()
    return True  # cut off, and perhaps a record before


def page(paths: Sequence[Path], command: str = "") -> str:
    """The page of the runs at `paths`, as HTML."""
    read = [_attempt(read_any, path) for path in paths]
    runs = {number: run for number, (run, _) in enumerate(read, start=1) if run}
    differing = {kind: _differing(kind, runs.values()) for kind in KINDS}
    names = [path.stem if path.suffix == ".json" else path.name for path in paths]
    shown = []
    for number, (path, (run, missing)) in enumerate(zip(paths, read, strict=True), start=1):
        name = names[number - 1]
        name = name if name and names.count(name) == 1 else str(path)
        facts, parts = ["damaged"], []
        if run:
            facts = _attempt(_facts, run)[0] or facts
            parts = [
                {"title": title, "form": form} | dict(zip(("content", "missing"), _attempt(make, run), strict=True))
                for title, form, make in _parts(run, path, differing[kind_of(run.config)])
            ]
        shown.append({"number": number, "name": name, "facts": facts, "missing": missing, "parts": parts})
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        runs=shown,
        columns=COLUMNS,
        together=[picture for kind in KINDS if (picture := _attempt(_together, kind, runs)[0])],
        differences=[_differences(kind, runs, names) for kind, names in differing.items() if names],
        cell_names=CELL_NAMES,
        command=command,
        made=time.strftime("%Y-%m-%d %H:%M"),
    )


def _attempt(make: Callable, *arguments: Any) -> tuple[Any, str]:
    """What `make` gives, and ""; or None, and the sentence that says why there is nothing."""
    try:
        return make(*arguments), ""
    except LabError as error:
        return None, str(error)
    except Exception as error:  # whatever a damaged file holds, all else of the page is shown
        return None, f"cannot be shown: {error!r}"


# --- several runs -----------------------------------------------------------------------------------------------------

COLUMNS = ("method", "data set", "preset", "budget", "seed", "state", "before the cut (%)", "test error (%)")


def _facts(run: Run) -> list[str]:
    """What the list of all runs says of one, by `COLUMNS`."""
    config = run.config
    search = config if isinstance(config, SearchConfig) else None
    before = run.history[-1]["held_out_accuracy"] if search and run.history else None
    return [
        search.label if search else "retraining",
        config.dataset,
        config.preset,
        search.budget if search else "–",
        str(config.seed),
        _state(run),
        _number(before),
        _number(run.result.get("test_error"), 2),
    ]


def _state(run: Run) -> str:
    if run.folder is None:
        return "record"
    if run.finished:
        return "finished"
    so_far = f"epoch {len(run.history)} of {run.config.epochs}"
    holder = writer(run.folder)
    return f"stopped, {so_far}" if holder is None else f"going on, {so_far} (process {holder.get('pid')})"


def _number(value: Any, digits: int = 1) -> str:
    return "–" if value is None else f"{float(value):z.{digits}f}"


def _differing(kind: str, runs: Iterable[Run]) -> list[str]:
    """The fields in which the runs of a kind differ."""
    values = [values_of(run.config) for run in runs if kind_of(run.config) == kind]
    names = dict.fromkeys(name for one in values for name in one)
    return [name for name in names if len({repr(one.get(name)) for one in values}) > 1]


def _differences(kind: str, runs: Mapping[int, Run], names: Sequence[str]) -> dict:
    """The fields in which the runs of a kind differ, as a table that is rather long than wide."""
    own = {number: values_of(run.config) for number, run in runs.items() if kind_of(run.config) == kind}
    rows = [[str(number), *(_text(name, values.get(name, "")) for name in names)] for number, values in own.items()]
    head, *rows = zip(["run", *names], *rows, strict=True) if len(names) > len(own) else [["run", *names], *rows]
    return {"title": f"What differs between the {KINDS[kind]}", "head": head, "rows": rows}


def _text(name: str, value: Any) -> str:
    """A field's value; a cell is drawn elsewhere."""
    return "see its cells" if name == "genotype" else str(value) or "–"


def _together(kind: str, runs: Mapping[int, Run]) -> Markup | None:
    """The accuracies of all runs of a kind in one picture, where there are two or more."""
    own = {f"run {number}": run for number, run in runs.items() if kind_of(run.config) == kind}
    curves = {label: points for label, run in own.items() if (points := _attempt(_before, run)[0])}
    if len(curves) < 2:
        return None
    images = dict.fromkeys(images_of(run.config) for run in own.values())
    title = f"Accuracy of the {KINDS[kind]} on {' or '.join(images)}"
    return _inline(svg_text(accuracies(curves, max(run.config.epochs for run in own.values()), title=title).figure))


# --- one run ----------------------------------------------------------------------------------------------------------


def _parts(run: Run, path: Path, differing: Collection[str]) -> list[tuple[str, str, Callable[[Run], Any]]]:
    """What is shown of a run: title, form, and what makes its content."""
    search = isinstance(run.config, SearchConfig)
    weights = [("Weights of operations and edges", "weights", _weights)]
    return [
        ("Accuracy", "picture", _accuracies),
        *(weights if search else [("Result", "pairs", _result)]),
        ("Cells", "picture", _cells),
        *([("What the cut costs", "table", _drops)] if search else []),
        ("Configuration", "pairs", lambda run: _configuration(run, differing)),
        ("Provenance", "pairs", lambda run: _provenance(run, path)),
    ]


def _accuracy(run: Run) -> str:
    """What records call the accuracy that is known of every epoch."""
    return "held_out_accuracy" if isinstance(run.config, SearchConfig) else "train_accuracy"


def _before(run: Run) -> list[tuple[int, float]]:
    """(epoch, accuracy in percent) of every epoch."""
    return [(record["epoch"], float(record[_accuracy(run)])) for record in run.history]


def _accuracies(run: Run) -> Markup:
    if not run.history:
        raise LabError(_nothing_trained(run))
    series = {"before the cut" if isinstance(run.config, SearchConfig) else "network": _before(run)}
    for row in gap_evolution(run) if any(record.get("gap") for record in run.history) else ():
        label = f"cut to {row['budget']}, edge weight {row['edge_weight']}"
        series.setdefault(label, []).append((row["epoch"], float(row["after"])))
    return _inline(svg_text(accuracies(series, run.config.epochs, title=f"Accuracy on {images_of(run.config)}").figure))


def _nothing_trained(run: Run) -> str:
    if isinstance(run.config, SearchConfig) and not run.config.searcher.trains:
        return "Chance drew the cell: nothing was trained."
    return "No epoch is recorded yet."


def _inline(svg: str) -> Markup:
    """An SVG document as a part of the page: without its head, and with ids that no other has."""
    own = f"s{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"
    return Markup(re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}", svg[svg.index("<svg") :]))


def _weights(run: Run) -> dict:
    """What the heat maps show: a [T][E · O] and b [T][E] of both cells, and which entries of a the budget keeps."""
    if not run.alphas:
        raise LabError(_nothing_trained(run))
    space, evolution, cells = run.search.space, weight_evolution(run), genotype_evolution(run)
    if not all(np.isfinite(part).all() for weights in evolution.values() for part in weights):
        raise LabError("The weights are not finite.")
    recorded = {epoch: value for epoch, value in _before(run) if np.isfinite(value)}  # what is not is no JSON
    data: dict[str, Any] = {"accuracy": [recorded.get(epoch) for epoch in range(len(cells))], "cells": {}}
    for name in CELL_TYPES:
        a, b = (part.reshape(len(cells), -1).astype(float).round(3).tolist() for part in evolution[name])
        kept = [
            [
                space.edges.index(edge[:2]) * len(space.operations) + space.operations.index(edge.operation)
                for edge in genotype.cell(name).edges
            ]
            for genotype in cells
        ]
        data["cells"][name] = {"a": a, "b": b, "kept": kept}
    return {
        "data": data,
        "edges": [f"{source} → {node}" for source, node in space.edges],
        "operations": {name: operation_colour(name) for name in space.operations},
        "largest": max(1.0, *(float(evolution[name].edges.max()) for name in CELL_TYPES)),
        "budget": run.search.budget,
        "epochs": run.config.epochs,
    }


def _cells(run: Run) -> Markup:
    config = run.config
    if not isinstance(config, SearchConfig):
        return _inline(cells_svg(config.cells))
    if not (run.genotype or run.alphas):
        raise LabError(_nothing_trained(run))
    when = "" if run.finished else f", after epoch {len(run.history)}"
    return _inline(cells_svg(run.genotype or genotype_after(run), title=f"{config.budget}{when}", nodes=config.nodes))


def _drops(run: Run) -> dict:
    """Accuracy before → after by budget and edge weight, a column for each stage and kind of statistics."""
    measured = run.gap or [row for record in run.history[-1:] for row in record.get("gap", [])]
    rows = [row for row in measured if row["stage"] in STAGES]
    if not rows:
        raise LabError(_not_measured(run))
    keys = ("budget", "edge_weight", *(["select"] if any("select" in row for row in rows) else []), "before")
    stages = reversed(STAGES)  # what is asked first comes first
    columns = dict.fromkeys((stage, row["batch_norm"]) for stage in stages for row in rows if row["stage"] == stage)
    lines: dict[tuple, dict] = {}
    for row in rows:
        key = tuple(row.get(name, rules.OWN) for name in keys)
        lines.setdefault(key, {})[row["stage"], row["batch_norm"]] = float(row["after"])
    return {
        "head": [*(name.replace("_", " ") for name in keys), *(_heading(*column) for column in columns)],
        "rows": [
            [*map(str, key[:-1]), _number(key[-1]), *(_change(key[-1], after.get(column)) for column in columns)]
            for key, after in lines.items()
        ],
        "note": f"Accuracy in percent on {images_of(run.config)}; in brackets the change in points.",
    }


def _not_measured(run: Run) -> str:
    if run.finished and not run.alphas:
        return _nothing_trained(run)
    if run.folder is None:
        return "Not measured: the record has no drops, and no weights to measure them with."
    if (run.folder / "gap.json").is_file():
        return "gap.json is damaged, and counts as not measured."
    return "Not measured: there is no gap.json. Notebooks and sweeps measure it, and daas-lab gap prints it."


def _heading(stage: str, batch_norm: str) -> str:
    which = {"both": "after", "none": "nothing cut"}.get(stage, f"{stage} only")
    return f"{which}, statistics {batch_norm}"


def _change(before: float, after: float | None) -> str:
    return "–" if after is None else f"{after:.1f} ({after - before:+z.1f})".replace("-", "−")


def _result(run: Run) -> list[tuple[str, str, bool]]:
    if not run.result:
        raise LabError("Not finished: the test images are looked at once, at the end.")
    digits = {"test_error": "test error (%)", "test_error_top_5": "test error, best of five (%)"}
    return [
        (digits.get(name, name.replace("_", " ")), _number(value, 2) if name in digits else f"{value:,}", False)
        for name, value in run.result.items()
    ]


def _configuration(run: Run, differing: Collection[str]) -> list[tuple[str, str, bool]]:
    """(field, value, whether the runs of the page differ in it)."""
    return [(name, _text(name, value), name in differing) for name, value in values_of(run.config).items()]


def _provenance(run: Run, path: Path) -> list[tuple[str, str, bool]]:
    config, origin = run.config, run.origin
    command, why = _attempt(_command, run, path)
    facts = {
        "run": str(path),
        "state": _state(run),
        "data set": config.dataset,
        "preset": config.preset,
        "seed": str(config.seed),
        "hash": config_hash(config),
        "versions": ", ".join(f"{name} {version}" for name, version in (origin["versions"] or {}).items()) or "–",
        "machine": machine_text(origin["machine"] or {}) or "–",
        **({"went on with": origin_text(origin).partition("; ")[2]} if "resumed" in origin else {}),
        "time": f"{float(run.seconds):.0f} s of training",
        "command": command or why,
    }
    return [(name, text, False) for name, text in facts.items()]


def _command(run: Run, path: Path) -> str:
    """The command that makes the run, or goes on with it."""
    config = run.config
    if config.operations_digest or getattr(config, "method_digest", "") or is_own(config.dataset):
        raise LabError("Not written out: the run uses code of one's own, which is executed only where it is named.")
    out = path if run.folder else Path("runs") / path.stem
    return shlex.join(["daas-lab", kind_of(config), *options_of(config), "--out", str(out)])
