"""Figures from plain arrays and records: data in, keyword-only options, `ax=None`; the axes (a grid: the figure) back.

Legend: T = epochs + 1 entries of an evolution, index 0 = the start; E edges of a cell in the order of
`cell_space.cell_edges`; O operations in the order of the run's space; n inputs of a node. Weights are shares of 1,
accuracies are in percent.

Figures are made without pyplot, which would keep each of them alive and belongs to one thread: in a notebook,
`%matplotlib inline` shows a figure that ends a cell, and `svg_text` feeds a widget.
"""

import contextlib
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from daas_lab.errors import LabError
from daas_lab.methods.lookup import METHODS, labelled_class, method_class
from daas_lab.space.budget import NAMED_BUDGETS
from daas_lab.space.cell_space import PRIMITIVES, cell_edges, nodes_of
from daas_lab.space.operations import operation_colour

# --- theme ------------------------------------------------------------------------------------------------------------

# Lines that are not operations are also told apart by their dashes.
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#444444", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 2)), (0, (3, 3)), (0, (1, 2.5)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
INK, FAINT = "#222222", "#BBBBBB"

THEME: dict[Any, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "figure.titlesize": 12,
    "font.size": 10,
    "grid.color": "#E4E4E4",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "text.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    # Ids inside an SVG come from this salt instead of chance, so that a figure drawn twice is the same file.
    "svg.hashsalt": "daas_lab",
}
PNG_BYTES_BELOW = 300_000
CELL_NAMES = {"normal": "normal cell", "reduce": "reduction cell"}


def themed(function: Callable) -> Callable:
    """Draw under the one theme, whatever the caller's matplotlib is set to."""

    @functools.wraps(function)
    def draw(*args, **kwargs):
        with matplotlib.rc_context(THEME):
            return function(*args, **kwargs)

    return draw


def new_axes(size: tuple[float, float]) -> Axes:
    """Axes of a figure of its own, `size` in inches."""
    return Figure(figsize=size, layout="constrained").subplots()


@themed
def svg_text(figure: Figure) -> str:
    """The figure as an SVG document, the same text whenever the data are the same."""
    buffer = io.StringIO()
    figure.draw_without_rendering()  # a first layout may still cut off a title
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


@themed
def save_figure(figure: Figure, stem: str, folder: str | Path, formats: Sequence[str] = ("svg", "png")) -> list[Path]:
    """Write `<stem>.svg` and `<stem>.png` (under 300 kB), or one of them, into `folder` and return the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}.{suffix}" for suffix in formats]
    for path in paths:
        if path.suffix == ".svg":
            path.write_text(svg_text(figure), encoding="utf-8")
            continue
        for dpi in (150, 110, 80, 50):
            figure.savefig(path, dpi=dpi, metadata={"Software": None})
            if path.stat().st_size < PNG_BYTES_BELOW:
                break
    return paths


def _edge_name(edge: tuple[int, int]) -> str:
    return f"{edge[0]} → {edge[1]}"


# --- the search over its epochs ---------------------------------------------------------------------------------------


def method_colour(name: str, place: int) -> str:
    """The colour of a method, one's own included, by its name or its title; variants, named after a comma, share their
    method's. What is none takes that of its place."""
    for label in (name, str(name).split(",")[0]):
        with contextlib.suppress(LabError):
            return labelled_class(_by_title().get(label, label)).colour
    return LINE_COLOURS[place % len(LINE_COLOURS)]


@functools.cache
def _by_title() -> dict[str, str]:
    """Title → name of the methods of this package."""
    return {method_class(method).title: method for method in METHODS}


@themed
def alpha_evolution(weights, *, operations: Sequence[str] = PRIMITIVES, title: str = "Normal cell") -> Figure:
    """Fig. 3: operation weights [T, E, O] over the epochs, a panel for each edge: a row a node, a column a source."""
    weights = np.asarray(weights, dtype=float)
    T, E, O = weights.shape  # noqa: E741
    nodes = nodes_of(E)
    figure = Figure(figsize=(2.1 * (nodes - 1), 1.75 * (nodes - 2) + 0.5), layout="constrained")
    grid = figure.subplots(nodes - 2, nodes - 1, sharex=True, sharey=True, squeeze=False)
    for ax in grid.flat:
        ax.set_visible(False)
    lines = []
    for e, (source, node) in enumerate(cell_edges(nodes)):
        ax = grid[node - 2, source]
        ax.set_visible(True)
        lines = [
            ax.plot(range(T), weights[:, e, o], color=operation_colour(name), label=name)[0]
            for o, name in zip(range(O), operations, strict=True)
        ]
        ax.set(title=_edge_name((source, node)), ylim=(-0.03, 1.03), xlim=(0, max(T - 1, 1)))
        # The lowest panel of each column carries the epochs: below the diagonal that is not always the last row.
        ax.tick_params(labelbottom=node == nodes - 1, labelleft=source == 0)
        if node == nodes - 1:
            ax.set_xlabel("epoch")
        if source == 0:
            ax.set_ylabel("weight a")
    # From five nodes on the grid leaves its upper right corner empty.
    place = {"loc": "upper right", "bbox_to_anchor": (0.99, 0.93)} if nodes > 4 else {"loc": "outside right upper"}
    figure.legend(handles=lines, title="operation", **place)
    figure.suptitle(f"{title}: operation weights by edge (source → node)")
    return figure


@themed
def beta_evolution(weights, *, first_node: int = 3, title: str = "Normal cell") -> Figure:
    """Fig. 4: edge weights [T, E] over the epochs, a panel for each node from `first_node`, a line for each input."""
    weights = np.asarray(weights, dtype=float)
    T, E = weights.shape
    edges, nodes = cell_edges(nodes_of(E)), range(first_node, nodes_of(E))
    figure = Figure(figsize=(3.3 * len(nodes), 3.8), layout="constrained")
    top = max(1.0, 1.03 * weights.max())
    for ax, node in zip(figure.subplots(1, len(nodes), sharey=True, squeeze=False).flat, nodes, strict=True):
        for e, (source, target) in enumerate(edges):
            if target == node:
                style: dict[str, Any] = {"color": LINE_COLOURS[source % 7], "linestyle": DASHES[source % 7]}
                ax.plot(range(T), weights[:, e], label=_edge_name((source, node)), **style)
        ax.set(title=f"node {node}", xlabel="epoch", ylim=(-0.03, top), xlim=(0, max(T - 1, 1)))
        ax.legend(title="edge", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    figure.axes[0].set_ylabel("edge weight b")
    figure.suptitle(f"{title}: weights of each node's input edges")
    return figure


@themed
def gap_over_epochs(
    records: Sequence[Mapping],
    *,
    continuous: str = "before",
    discretized: str = "after",
    chance: float | None = None,
    title: str = "Accuracy if the super-network were discretized now",
    ax: Axes | None = None,
) -> Axes:
    """Accuracy of the super-network over the epochs, and a line per budget for what discretizing at once leaves of it.

    `records`: rows with `epoch`, `budget` and, in percent, the accuracies named `continuous` and `discretized`.
    """
    ax = ax or new_axes((6.2, 3.6))
    before = {record["epoch"]: record[continuous] for record in records}
    ax.plot(list(before), list(before.values()), color=INK, linewidth=2.4, label="continuous")
    for n, budget in enumerate(_budgets(records)):
        points = [(record["epoch"], record[discretized]) for record in records if record["budget"] == budget]
        style: dict[str, Any] = {"color": LINE_COLOURS[n % 7], "linestyle": DASHES[n % 7], "marker": MARKERS[n % 7]}
        ax.plot(*zip(*points, strict=True), markersize=3.5, label=budget, **style)
    _mark_chance(ax, chance)
    ax.set(title=title, xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 102))
    ax.legend(title="edges kept", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _budgets(rows: Sequence[Mapping]) -> list[str]:
    """The budgets that occur, the paper's in its order, others after them."""
    found = list(dict.fromkeys(row["budget"] for row in rows))
    named = [budget for budget in reversed(NAMED_BUDGETS) if budget in found]
    return named + [budget for budget in found if budget not in named]


def _over_seeds(rows: Sequence[Mapping]) -> str:
    """What a bar of one standard deviation is of, for the label of its axis."""
    counts = sorted({len(row["seeds"]) for row in rows if row.get("seeds")})
    several = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else ""
    return f", mean ± std of {several} seeds" if counts and counts[-1] > 1 else ""


def _mark_chance(ax: Axes, chance: float | None) -> None:
    if chance is not None:
        ax.axhline(chance, color="#888888", linestyle=":", linewidth=1.2, label="chance", zorder=1)


# --- discretization ---------------------------------------------------------------------------------------------------


@themed
def accuracy_drop(
    rows: Sequence[Mapping],
    *,
    chance: float | None = None,
    title: str = "Super-network accuracy before and after discretization",
    ax: Axes | None = None,
) -> Axes:
    """Table 4's drops, before → after by budget and method, with a bar of one standard deviation.

    `rows`: `method`, `budget` and accuracies in percent, `before_mean` and `after_mean` (or `before` and `after`),
    `after_std` and, drawn hollow beside them, what the paper has: `reported_after`. The paper keeps edges at 1: where a
    method is drawn with several `edge_weight`, only that one has it.
    """
    budgets, methods = _budgets(rows), list(dict.fromkeys(row["method"] for row in rows))
    ax = ax or new_axes((max(6.4, 2.9 + 1.15 * len(budgets)), 3.8))
    step = 0.7 / max(len(methods), 1)
    at_one = {row["method"].split(",")[0] for row in rows if row.get("edge_weight") == "one"}
    for m, method in enumerate(methods):
        colour = method_colour(method, m)
        own = [row for row in rows if row["method"] == method]
        x = [budgets.index(row["budget"]) + (m - (len(methods) - 1) / 2) * step for row in own]
        before, after = ([row.get(f"{name}_mean", row.get(name)) for row in own] for name in ("before", "after"))
        ax.vlines(x, after, before, color=colour, linewidth=1.6, alpha=0.6)
        ax.plot(x, before, "_", color=colour, markersize=11, markeredgewidth=2)
        deviations = [row.get("after_std") or 0 for row in own]
        marker: dict[str, Any] = {"marker": MARKERS[m % 7], "markersize": 6.5, "linestyle": "none", "color": colour}
        ax.errorbar(x, after, deviations, fmt="none", ecolor=colour, elinewidth=2.4, capsize=3)
        ax.plot(x, after, label=method, **marker)
        other = method.split(",")[0] in at_one and own[0].get("edge_weight") != "one"
        printed = np.array([np.nan if other else row.get("reported_after", np.nan) for row in own])
        if np.isfinite(printed).any():
            ax.plot(np.add(x, step / 4), printed, label=f"{method}, paper", markerfacecolor="white", **marker)
    _mark_chance(ax, chance)
    over = _over_seeds(rows) if any(row.get("after_std") for row in rows) else ""
    ax.set(
        title=title, xlabel="edges kept", ylabel=f"accuracy (%){over}", ylim=(0, 102), xlim=(-0.6, len(budgets) - 0.4)
    )
    ax.set_xticks(range(len(budgets)), budgets)
    ax.plot([], [], "_", color=INK, markersize=11, markeredgewidth=2, label="before")
    ax.legend(title="after, by method", loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.grid(axis="x", visible=False)
    return ax


@themed
def error_bars(
    rows: Sequence[Mapping], key: str, *, hue: str | None = None, title: str = "", ax: Axes | None = None
) -> Axes:
    """Tables 2–4: test error by `key`, a dot with a bar of one standard deviation; rows without a result are left out.

    `rows`: `key`, `error_mean`, `error_std` (None for a single seed) and, if given, `hue`, which has a marker each.
    """
    rows = [row for row in rows if row.get("error_mean") is not None]
    places = list(dict.fromkeys(row[key] for row in rows))
    hues: list[Any] = list(dict.fromkeys(row.get(hue) for row in rows))
    ax = ax or new_axes((max(5.0, 1.8 + 0.85 * len(places)) + 1.6 * (hue is not None), 3.8))
    for h, name in enumerate(hues):
        own = [row for row in rows if row.get(hue) == name]
        shift = (h - (len(hues) - 1) / 2) * 0.6 / max(len(hues), 1)
        x = [places.index(row[key]) + shift for row in own]
        style: dict[str, Any] = {"color": method_colour(name, h), "marker": MARKERS[h % 7], "label": name}
        errors = [row.get("error_std") or 0 for row in own]
        ax.errorbar(x, [row["error_mean"] for row in own], errors, linestyle="none", capsize=3, **style)
    long = max((len(str(place)) for place in places), default=0) > 8
    ax.set_xticks(range(len(places)), places, rotation=35 if long else 0, ha="right" if long else "center")
    ax.set(title=title, ylabel=f"test error (%){_over_seeds(rows)}", xlim=(-0.6, len(places) - 0.4))
    ax.grid(axis="x", visible=False)
    if hue is not None:
        ax.legend(title=hue, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


@themed
def error_by_accuracy(
    rows: Sequence[Mapping], *, accuracy: str = "before", title: str = "", ax: Axes | None = None
) -> Axes:
    """Test error of the retrained cells over the accuracy of their super-networks, a mark for each search.

    `rows`: `method`, `error` and, in percent, the accuracy on held-out images named `accuracy`: `before` or `after` the
    cut.
    """
    ax = ax or new_axes((5.2, 3.8))
    for m, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        own = [row for row in rows if row["method"] == method]
        style: dict[str, Any] = {"color": method_colour(method, m), "marker": MARKERS[m % 7], "alpha": 0.75}
        x, y = [row[accuracy] for row in own], [row["error"] for row in own]
        ax.plot(x, y, linestyle="none", markersize=5, markeredgewidth=0, label=f"{method} ({len(own)})", **style)
    ax.set(title=title, xlabel=f"super-network's accuracy {accuracy} the cut (%)", ylabel="test error, retrained (%)")
    ax.legend(title="method (searches)")
    return ax


@themed
def error_by_accuracy_panels(rows: Sequence[Mapping], *, title: str = "") -> Figure:
    """`error_by_accuracy` before and after the cut, side by side."""
    figure = Figure(figsize=(9.6, 4.1), layout="constrained")
    for ax, accuracy in zip(figure.subplots(1, 2, sharey=True), ("before", "after"), strict=True):
        error_by_accuracy(rows, accuracy=accuracy, ax=ax)
        ax.label_outer()
    figure.suptitle(title)
    return figure


@themed
def node_inputs(
    operation_weights,
    edge_weights,
    kept: Mapping[str, Sequence[int]],
    *,
    node: int = 3,
    operations: Sequence[str] = PRIMITIVES,
    title: str = "",
    ax: Axes | None = None,
    legend: Axes | None = None,
) -> Axes:
    """Fig. 1: the input edges of a node, b as a grey bar and the operations' shares a stacked beside it.

    `operation_weights` [n, O]; `edge_weights` [n]; `kept` budget → the sources whose edges stay. An edge that no
    budget keeps is drawn pale. Results (accuracy before → after, say) belong into `title`. `legend`: empty axes for it;
    without them it stands beside the picture.
    """
    a, b = np.asarray(operation_weights, dtype=float), np.asarray(edge_weights, dtype=float)
    ax = ax or new_axes((6.6, 3.4))
    ticks = []
    for source in range(len(b)):
        alpha = 1.0 if any(source in sources for sources in kept.values()) else 0.3
        ax.bar(source - 0.19, b[source], 0.3, color="#8A8A8A", edgecolor=INK, linewidth=0.6, alpha=alpha)
        ax.annotate(f"{b[source]:.2f}", (source - 0.19, b[source]), (0, 2), textcoords="offset points", ha="center")
        bottom = 0.0
        for share, operation in zip(a[source], operations, strict=True):
            colour = operation_colour(operation)
            ax.bar(source + 0.19, share, 0.3, bottom, color=colour, edgecolor="white", linewidth=0.5, alpha=alpha)
            bottom += share
        fates = (f"{budget}: {'kept' if source in sources else 'discarded'}" for budget, sources in kept.items())
        ticks.append("\n".join((_edge_name((source, node)), *fates)))
    ax.set_xticks(range(len(b)), ticks)
    ax.set(title=title or f"Inputs of node {node}", ylabel="weight", ylim=(0, 1.12 * max(1.0, b.max())))
    handles = [Patch(color=operation_colour(name), label=name) for name in reversed(operations)]
    handles.append(Patch(facecolor="#8A8A8A", edgecolor=INK, label="edge weight b"))
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if legend is None else {"loc": "center"}
    (legend or ax).legend(handles=handles, title="operation weight a", **place)
    ax.grid(axis="x", visible=False)
    return ax


@themed
def discretization_gap(panels: Sequence[Mapping], *, node: int = 3, title: str = "") -> Figure:
    """Fig. 1: the inputs of one node in each search, and what each budget keeps of them; two searches in a row, but the
    first, which has the legend beside it.

    `panels`: the arguments of `node_inputs`: `operation_weights`, `edge_weights`, `kept` and `title`.
    """
    rows = len(panels) // 2 + 1
    figure = Figure(figsize=(10.4, 3.7 * rows), layout="constrained")
    first, legend, *others = figure.subplots(rows, 2).flat
    for ax, panel in zip((first, *others), panels, strict=False):
        node_inputs(**panel, node=node, ax=ax, legend=legend)
    for ax in (legend, *others[len(panels) - 1 :]):
        ax.set_axis_off()
    figure.suptitle(title)
    return figure
