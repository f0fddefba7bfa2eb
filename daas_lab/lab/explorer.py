"""One search at one epoch as a picture: accuracies, α heat map, β bars and the cells that a budget would keep.

Plain SVG text, written here instead of by matplotlib: a frame takes milliseconds, so that all epochs of a run are drawn
before a slider moves through them. Nothing moves from frame to frame but what the search changed: nodes stand still.

Legend: T = epochs + 1 entries of an evolution, index 0 = the start; E edges of a cell; O operations.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from html import escape
from pathlib import Path

import numpy as np

from daas_lab.config import LAMBDAS, SearchConfig
from daas_lab.errors import LabError, refuse
from daas_lab.lab import svg
from daas_lab.lab.svg import MARGIN, WIDTH
from daas_lab.methods import rules, schedules
from daas_lab.methods.check import RECORDED
from daas_lab.methods.lookup import METHODS, method_class
from daas_lab.report.plots import CELL_NAMES, DASHES, FAINT, INK, LINE_COLOURS
from daas_lab.report.tables import images_of
from daas_lab.runs.folder import CHECKPOINTS, Run, epochs_done, read_config
from daas_lab.runs.records import config_of, read_any
from daas_lab.space.budget import NAMED_BUDGETS, EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES, PRIMITIVES, cell_edges, nodes_of
from daas_lab.space.genotype import CellGenotype
from daas_lab.space.operations import operation_colour
from daas_lab.train.discretize import Evolution, derive_genotype, weight_evolution

PANEL_HEIGHT = 74  # of the axes of a curve
ROW, COLUMN, HEAD = 13, 17, 58  # of the heat map: an edge, an operation, the operations' names
ARC = 19  # height of an arc for each node that it spans
SHADE = "#08519C"
DISCRETIZATION_LOSSES = ("operation_loss", "edge_loss")
BEFORE, AFTER = LINE_COLOURS[0], LINE_COLOURS[1]

# --- which runs -------------------------------------------------------------------------------------------------------


def searches(runs: str | Path, records: str | Path | None = None) -> dict[str, Path]:
    """Name → folder of every search in the folder `runs` that has finished an epoch, then → record in `records`.

    Where a run and its record are both there, the run stands for itself. Records are told by their names.
    """
    found = {
        path.parent.name: path.parent for path in sorted(Path(runs).glob("*/config.json")) if _has_epochs(path.parent)
    }
    if records is None:
        return found
    untrained = {"retrain", *(name for name in METHODS if not method_class(name).trains)}  # these have no epochs
    published = (path for path in sorted(Path(records).glob("*.json")) if path.stem.split("-")[0] not in untrained)
    return found | {path.stem: path for path in published if path.stem not in found}


def _has_epochs(folder: Path) -> bool:
    """Whether a folder is that of a search with α and β in it. Of what is finished the damaged counts too, and is named
    where it is read."""
    if (folder / "architecture.safetensors").is_file():
        return True
    with contextlib.suppress(LabError):
        return epochs_done(folder) > 0 and isinstance(read_config(folder), SearchConfig)
    return False


def read_search(path: str | Path) -> Run:
    """The search of a folder or a record; `LabError` if there is nothing to show."""
    run = read_any(path)
    if not isinstance(run.config, SearchConfig) or not run.alphas:
        raise refuse("run", str(path), "a search that has finished an epoch")
    return run


def search_config_of(path: str | Path) -> SearchConfig:
    """The configuration of the search of a folder or a record, which may be damaged otherwise."""
    config = config_of(path)
    if not isinstance(config, SearchConfig):
        raise refuse("run", str(path), "a search")
    return config


def budgets_of(runs: Sequence[Run]) -> list[str]:
    """The budgets that can be asked of runs: the paper's, where the cells have its nodes, and their own."""
    named = list(NAMED_BUDGETS) if any(run.search.nodes == 6 for run in runs) else []
    return list(dict.fromkeys([*named, *(run.search.budget for run in runs)]))


def main_budget(config: SearchConfig) -> str:
    """The budget under which a search is shown while it is made: its own; of a method that asks for none the first that
    it measures."""
    measured = [] if config.searcher.asks_for_budget else config.gap_budgets.split()
    return next(iter(measured), config.budget)


def first_choice(found: Mapping[str, Path]) -> str:
    """Of the searches found, the first by DARTS, else the first."""
    return next((name for name in found if name.startswith("darts-")), next(iter(found)))


def second_choice(found: Mapping[str, Path], first: str | None = None) -> str:
    """A search to look at beside `first` (default: `first_choice`): by another method, on the same data set, and if
    there is one for 8/14 with the method's own control functions."""
    first = first or first_choice(found)
    others = [name for name in found if name.split("-")[0] != first.split("-")[0]]
    same = [name for name in others if name.split("-")[1:2] == first.split("-")[1:2]]
    for name in same:
        with contextlib.suppress(LabError):  # of one that cannot be read: who chooses it is told so
            config = read_search(found[name]).search
            if config.budget == "8/14" and not _unusual_lambdas(config):
                return name
    return next(iter([*same, *others, first]))


def labels(found: Mapping[str, Path]) -> list[tuple[str, str]]:
    """(label, name) of every search, for a list to choose from: what its name does not tell is in the label."""
    return [(" · ".join([name, *_particulars(path)]), name) for name, path in found.items()]


def _particulars(path: Path) -> list[str]:
    try:
        config = search_config_of(path)
        budget = [config.budget] if config.searcher.asks_for_budget else []
        return [config.preset, *budget, *_unusual_lambdas(config)]
    except LabError:  # damaged, or of a method that is not named; who chooses it is told so
        return []


def _unusual_lambdas(config: SearchConfig) -> list[str]:
    """The control functions that are not the method's own, such as "λ_c step"."""
    usual = {spec.name: spec.default for spec in fields(config.method_class)}
    named = LAMBDAS[:1] if config.lambda_c == schedules.ZERO else LAMBDAS
    chosen = {name: getattr(config, name) for name in named if name in usual}  # others have no effect
    return [f"λ_{name[-1]} {value}" for name, value in chosen.items() if value != usual[name]]


# --- frames -----------------------------------------------------------------------------------------------------------


def frames(run: Run, budget: str, edge_weight: str = "learned") -> list[str]:
    """The picture of every epoch of a search under `budget`, the start first."""
    evolution = weight_evolution(run)
    return [frame(run, budget, epoch, edge_weight, evolution) for epoch in range(len(run.alphas["normal"]))]


def frame(
    run: Run, budget: str, epoch: int, edge_weight: str = "learned", evolution: Mapping[str, Evolution] | None = None
) -> str:
    """The picture of a search after `epoch` (0: its start) as an SVG document.

    `edge_weight` says how kept edges weigh in the accuracy after the cut. `evolution` is `weight_evolution(run)`, to be
    handed in where many epochs are drawn. A search that has left the budget for the next one rests at that epoch.
    """
    edge_budget = EdgeBudget.parse(budget)
    if edge_budget.nodes != run.search.nodes:
        raise refuse("budget", budget, f"for the {run.search.nodes - 2} intermediate nodes of this run")
    evolution = evolution or weight_evolution(run)
    asked, epoch = epoch, min(epoch, run.search.epoch_of(edge_budget))
    genotype = derive_genotype(run.search, run.architecture(epoch), edge_budget, max(1, epoch))
    parts, y = _header(run, str(edge_budget), epoch)
    if epoch < asked:
        parts.append(svg.text(f"this budget was left at epoch {epoch}", MARGIN, y + 7, 'text-anchor="start"'))
        y += 12
    panel, height = _accuracy_panel(run, str(edge_budget), epoch, edge_weight, y)
    parts, y = parts + panel, y + height
    block = (WIDTH - 2 * MARGIN) / 2
    scale = max(1.0, *(evolution[name].edges.max() for name in CELL_TYPES))
    for n, name in enumerate(CELL_TYPES):
        a, b = evolution[name].operations[epoch], evolution[name].edges[epoch]
        at = MARGIN + n * block, y
        parts += _heat_map(a, b, run.search.space.operations, scale, genotype.cell(name), CELL_NAMES[name], *at)
    y += HEAD + 20 + _rows_height(run.search.nodes)
    for name in CELL_TYPES:
        parts += _arcs(genotype.cell(name), evolution[name].edges[epoch], run.search.nodes, CELL_NAMES[name], y)
        y += ARC * (run.search.nodes - 1) + 46
    return svg.document(WIDTH, y, parts)


# --- accuracies -------------------------------------------------------------------------------------------------------


def _header(run: Run, budget: str, epoch: int) -> tuple[list[str], float]:
    config = run.search
    name = f"{config.label} on {config.dataset}, preset {config.preset}, seed {config.seed}"
    details = f", protocol {config.protocol}, searched for {config.budget}" if config.searcher.asks_for_budget else ""
    left = 'text-anchor="start" font-size="{}" font-weight="{}"'
    return [
        svg.text(name, MARGIN, 20, left.format(13, "bold")),
        svg.text(f"epoch {epoch} of {config.epochs}{details}; cut to {budget}", MARGIN, 37, left.format(11, "normal")),
    ], 46


def accuracies(run: Run, budget: str, edge_weight: str = "learned") -> dict[str, list[float | None]]:
    """Accuracies in percent after every epoch [T], None where not recorded: `before` the cut and `after` it.

    The cut is the whole one, with batch-norm statistics as trained. What was measured after the search is of the epoch
    at which it was at the row's budget.
    """
    recorded = {record["epoch"]: record for record in run.history}
    epochs = range(len(run.alphas["normal"]))
    before = [recorded.get(epoch, {}).get("held_out_accuracy") for epoch in epochs]
    rows = [recorded.get(epoch, {}).get("gap", []) for epoch in epochs]
    for row in reversed(run.gap):
        stop = min(run.search.epoch_of(row["budget"]), epochs[-1])
        rows[stop] = [row, *rows[stop]]
    # Where edges have no weights of their own, to keep 1 is to keep what they have; but of two operations on an edge
    # each then weighs 1.
    single = EdgeBudget.parse(budget).operations == 1
    free = single and not run.search.searcher.learns_edges and edge_weight != "renormalised"
    same = ("one", "learned") if free else (edge_weight,)

    def measured(row: Mapping) -> bool:
        wanted = (budget, "as-trained", "both")
        own = row.get("select", rules.OWN) == rules.OWN
        return own and (row["budget"], row["batch_norm"], row["stage"]) == wanted and row["edge_weight"] in same

    after = [next((row["after"] for row in of_epoch if measured(row)), None) for of_epoch in rows]
    return {"before": before, "after": after}


def can_measure(run: Run, budget: str, edge_weight: str) -> bool:
    """Whether the cut of a search, where it ended or left the budget, is not measured, and the weights are there to
    measure it with."""
    weights = run.finished and run.folder is not None and any((run.folder / name).is_file() for name in CHECKPOINTS)
    fits = EdgeBudget.parse(budget).nodes == run.search.nodes
    return weights and fits and accuracies(run, budget, edge_weight)["after"][run.search.epoch_of(budget)] is None


def _accuracy_panel(run: Run, budget: str, epoch: int, edge_weight: str, y: float) -> tuple[list[str], float]:
    values = accuracies(run, budget, edge_weight)
    now = {name: "–" if series[epoch] is None else f"{series[epoch]:.1f} %" for name, series in values.items()}
    if all(value is None for value in values["after"]):
        now["after"] = "not measured"
    bold = 'font-weight="bold"'
    title = svg.text(f"accuracy on {images_of(run.config)}", MARGIN, y + 10, 'text-anchor="start"')
    caption = (
        f'<text x="{MARGIN}" y="{y + 23:.1f}" text-anchor="start">'
        f'<tspan fill="{BEFORE}" {bold}>before {now["before"]}</tspan> → '
        f'<tspan fill="{AFTER}" {bold}>after the cut {now["after"]}</tspan> (edge weight {edge_weight})</text>'
    )
    series = [(values["before"], BEFORE, "-"), (values["after"], AFTER, DASHES[1])]
    box = (MARGIN + 26, y + 33, WIDTH - 2 * MARGIN - 32, PANEL_HEIGHT)
    return [title, caption, *svg.curves(series, box, (0, 100), run.config.epochs, epoch)], PANEL_HEIGHT + 59


def losses(run: Run) -> str:
    """Every loss that a search has recorded so far, over its epochs: L^C above, L^O and L^E below, then the terms that
    the method adds to L^C as they are added; an SVG document."""
    recorded = {record["epoch"]: record for record in run.history}
    names = list(dict.fromkeys(key for record in run.history for key in record))
    recorded_losses = [name for name in names if name.endswith("_loss")]
    panels = {
        "classification loss": [name for name in recorded_losses if name not in DISCRETIZATION_LOSSES],
        "operation and edge loss, before λ": [name for name in recorded_losses if name in DISCRETIZATION_LOSSES],
    }
    if terms := [name for name in names if name not in {*RECORDED, *recorded_losses}]:
        panels["what the method adds or records"] = terms
    parts, y = [], 0.0
    for title, own in panels.items():
        parts.append(svg.text(title, MARGIN, y + 20, 'text-anchor="start" font-size="13" font-weight="bold"'))
        series = []
        for n, name in enumerate(own):
            values = [recorded.get(epoch, {}).get(name) for epoch in range(max(recorded) + 1)]
            colour, dashes = LINE_COLOURS[n % 7], DASHES[n % 7]
            series.append((values, colour, dashes))
            x, y = MARGIN + 150 * (n % 3), y + 14 * (n > 0 and n % 3 == 0)
            parts.append(svg.line(f"M{x},{y + 36}h24", colour, dashes))
            label = name.removesuffix("_loss").removesuffix("_term").replace("_", " ")
            parts.append(svg.text(label, x + 29, y + 39, 'text-anchor="start"'))
        known = [value for values, *_ in series for value in values if value is not None]
        low, high = min([0.0, *known]), max([0.0, *known])  # a term may be negative
        box = (MARGIN + 26, y + 54, WIDTH - 2 * MARGIN - 32, 2 * PANEL_HEIGHT)
        parts += svg.curves(series, box, (low, high if high > low else low + 1), run.config.epochs)
        y += 2 * PANEL_HEIGHT + 84
    return svg.document(WIDTH, y, parts)


# --- α and β ----------------------------------------------------------------------------------------------------------


def _rows_height(nodes: int) -> float:
    return ROW * len(cell_edges(nodes)) + 4 * (nodes - 3)


def _heat_map(
    a: np.ndarray,
    b: np.ndarray,
    operations: Sequence[str],
    scale: float,
    cell: CellGenotype,
    title: str,
    x: float,
    y: float,
) -> list[str]:
    """Operation weights [E, O] as shades, edge weights [E] as bars beside them; what the cut keeps is outlined."""
    kept = {(edge.source, edge.node, edge.operation) for edge in cell.edges}
    kept_edges = {edge[:2] for edge in kept}
    first, room = x + 30, 44  # left side of the shades, width of the longest bar
    column = COLUMN * min(1.0, len(PRIMITIVES) / len(operations))
    bars = first + column * len(operations) + 8
    bold = 'font-weight="bold"'
    parts = [svg.text(title, x + 4, y + 10, f'text-anchor="start" {bold}'), svg.text("b", bars + 4, y + HEAD + 8)]
    for o, operation in enumerate(operations):
        px, py = first + column * (o + 0.5), y + HEAD + 10
        turned = f'text-anchor="start" fill="{operation_colour(operation)}" {bold} font-size="9"'
        parts.append(svg.text(operation, px, py, f'{turned} transform="rotate(-50 {px:.1f} {py:.1f})"'))
    outlines, top = [], y + HEAD + 14
    for e, (source, node) in enumerate(cell_edges(nodes_of(len(b)))):
        py, on = top + ROW * e + 4 * (node - 2), (source, node) in kept_edges
        style = f'text-anchor="end" font-size="9" {bold if on else f"fill={chr(34)}#777777{chr(34)}"}'
        parts.append(svg.text(f"{source}→{node}", first - 4, py + ROW - 3, style))
        for o, operation in enumerate(operations):
            at = f'x="{first + column * o:.1f}" y="{py:.1f}" width="{column - 1:.0f}" height="{ROW - 1}"'
            tip = f"<title>{source}→{node} {operation}: {a[e, o]:.3f}</title>"
            parts.append(f'<rect {at} fill="{SHADE}" fill-opacity="{a[e, o]:.3f}">{tip}</rect>')
            if (source, node, operation) in kept:
                outlines.append(f'<rect {at} fill="none" stroke="{operation_colour(operation)}" stroke-width="2"/>')
        length, colour = room * b[e] / scale, "#555555" if on else FAINT
        parts.append(
            f'<rect x="{bars:.1f}" y="{py + 2:.1f}" width="{length:.1f}" height="{ROW - 5}" fill="{colour}"/>'
            + svg.text(f"{b[e]:.2f}", bars + room + 4, py + ROW - 3, 'text-anchor="start" font-size="9"')
        )
    return parts + outlines


# --- cells ------------------------------------------------------------------------------------------------------------


def _arcs(cell: CellGenotype, b: np.ndarray, nodes: int, title: str, y: float) -> list[str]:
    """The cell with its nodes in a row and its edges as arcs above them; pale arcs are the edges that are cut off."""
    step = (WIDTH - 2 * MARGIN - 72) / (nodes - 1)
    base = y + ARC * (nodes - 1) + 22

    def arc(source: int, node: int, style: str) -> str:
        x0, x1 = (MARGIN + 36 + step * n for n in (source, node))
        # A cubic reaches three quarters of the height of its inner points.
        top = base - ARC * (node - source) / 0.75
        return f'<path d="M{x0:.1f},{base:.1f}C{x0:.1f},{top:.1f} {x1:.1f},{top:.1f} {x1:.1f},{base:.1f}" {style}/>'

    chosen: dict[tuple[int, int], list[str]] = {}
    for edge in cell.edges:
        chosen.setdefault(edge[:2], []).append(edge.operation)
    parts = [svg.text(title, MARGIN + 4, y + 12, 'text-anchor="start" font-weight="bold"')]
    for e, (source, node) in enumerate(cell_edges(nodes)):
        if (source, node) not in chosen:
            parts.append(arc(source, node, f'fill="none" stroke="#EEEEEE" stroke-width="{0.5 + min(b[e], 1):.2f}"'))
    labels = []
    for (source, node), operations in chosen.items():
        for n, operation in reversed(list(enumerate(operations))):
            style = f'fill="none" stroke="{operation_colour(operation)}" stroke-width="{2.2 + 3 * n}"'
            parts.append(arc(source, node, style))
        text = operations[0] + (f" +{len(operations) - 1}" if len(operations) > 1 else "")
        x, top = MARGIN + 36 + step * (source + node) / 2, base - ARC * (node - source)
        halo = 'font-size="9.5" stroke="white" stroke-width="3" paint-order="stroke" stroke-linejoin="round"'
        # In a cell of many nodes there is no room for names; colours and tooltips remain.
        label = svg.text(text, x, top - 4, halo) if nodes <= 6 else ""
        labels.append(f"<g><title>{source}→{node} {escape(' + '.join(operations))}</title>{label}</g>")
    for n in range(nodes):
        x, fed = MARGIN + 36 + step * n, n < 2 or n in cell.concat or bool(cell.sources(n))
        colour = INK if fed else "#AAAAAA"
        style = f'fill="{"#E8EEF4" if n < 2 else "white"}" stroke="{colour}"' + (
            "" if fed else ' stroke-dasharray="3 3"'
        )
        parts.append(f'<circle cx="{x:.1f}" cy="{base:.1f}" r="11" {style}/>' + svg.text(str(n), x, base + 4))
    return parts + labels
