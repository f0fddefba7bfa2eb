"""Table 4 under both protocols, and its pattern taken apart. Theme of `plots.py`; rows of `studies/table_4.py`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from daas_lab.report.plots import CELL_NAMES, DASHES, INK, LINE_COLOURS, MARKERS, accuracy_drop, new_axes, themed

DROPPED, STAYS = "#D55E00", "#999999"
# Quantity of `table_4.pattern_rows` → what its line is called.
PATTERN = {
    "one": "kept edges at 1: the paper's cut",
    "predicted": "kept edges at 1, nothing removed",
    "recalibrated": "the cut, statistics estimated again",
    "learned": "kept edges keep what they learned",
}


@themed
def protocol_panels(panels: Mapping[str, Sequence[Mapping]], *, chance: float, title: str) -> Figure:
    """Table 4's drops, a panel a protocol: its title → the rows of `plots.accuracy_drop`."""
    figure = Figure(figsize=(9.6, 3.9 * len(panels)), layout="constrained")
    for ax, (name, rows) in zip(np.atleast_1d(figure.subplots(len(panels))), panels.items(), strict=True):
        accuracy_drop(rows, chance=chance, title=name, ax=ax)
    figure.suptitle(title)
    return figure


@themed
def drop_pattern(rows: Sequence[Mapping], printed: Mapping[str, float], *, title: str, ax: Axes | None = None) -> Axes:
    """Points lost by the number of nodes that keep two edges: a line for each of `PATTERN` through the means over the
    seeds, a faint dot for each run, and hollow what the paper prints.

    `rows`: those of `table_4.pattern_rows`; `printed`: budget → drop. Budgets that drop a node are left out.
    """
    ax = ax or new_axes((7.6, 4.2))
    rows = [row for row in rows if not row["dropped"]]
    budgets = {row["two_edges"]: row["budget"] for row in sorted(rows, key=lambda row: row["two_edges"])}
    for n, (quantity, label) in enumerate(PATTERN.items()):
        style: dict[str, Any] = {"color": LINE_COLOURS[n], "linestyle": DASHES[n], "marker": MARKERS[n]}
        means = [np.mean([row[quantity] for row in rows if row["two_edges"] == count]) for count in budgets]
        ax.plot(list(budgets), means, label=label, **style)
        dots = [(row["two_edges"], row[quantity]) for row in rows]
        ax.plot(*zip(*dots, strict=True), marker=MARKERS[n], color=LINE_COLOURS[n], linestyle="none", alpha=0.25)
    known = [(count, printed[budget]) for count, budget in budgets.items() if budget in printed]
    hollow: dict[str, Any] = {
        "marker": "o",
        "markersize": 9,
        "markerfacecolor": "white",
        "color": INK,
        "linestyle": "none",
        "zorder": 5,
    }
    ax.plot(*zip(*known, strict=True), label="the paper, CIFAR-10", **hollow)
    ax.axhline(0, color="#888888", linewidth=1, zorder=1)
    ax.set(title=title, xlabel="nodes of a cell that keep two edges (edges kept)", ylabel="points of accuracy lost")
    ax.set_xticks(list(budgets), [f"{count}\n({budget})" for count, budget in budgets.items()])
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


@themed
def node_panels(rows: Sequence[Mapping], *, title: str) -> Figure:
    """3/14: what every node puts out, and what dropping it alone costs, a dot for each node of each run; those that the
    budget drops are coloured. `rows`: those of `table_4.node_rows`."""
    panels = {
        "rms": "root mean square of its output",
        "as-trained": "points lost without it",
        "recalibrated": "the same, statistics estimated again",
    }
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    grid = figure.subplots(2, len(panels), sharex=True, sharey="col")
    for line, (cell, name) in zip(grid, CELL_NAMES.items(), strict=True):
        for ax, (what, label) in zip(line, panels.items(), strict=True):
            quantity, statistics = ("rms", "as-trained") if what == "rms" else ("drop", what)
            own = [row for row in rows if (row["cell"], row["batch_norm"]) == (cell, statistics)]
            for dropped, colour, marker in ((False, STAYS, "o"), (True, DROPPED, "D")):
                dots = [(row["node"], row[quantity]) for row in own if row["dropped"] is dropped]
                if dots:
                    said = "dropped at 3/14" if dropped else "stays"
                    ax.plot(*zip(*dots, strict=True), marker=marker, color=colour, linestyle="none", label=said)
            ax.set(title=label if cell == "normal" else "", xlabel="node" if cell == "reduce" else "")
            ax.xaxis.get_major_locator().set_params(integer=True)
        line[0].set_ylabel(name)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.suptitle(title)
    return figure


@themed
def price(rows: Sequence[Mapping], *, title: str, ax: Axes | None = None) -> Axes:
    """Test error by the share of operations in the normal cell that have no weights to learn; a dot for each cell.

    `rows`: those of `table_4.price_rows`.
    """
    ax = ax or new_axes((7.6, 4.2))
    for n, name in enumerate(dict.fromkeys(row["search"] for row in rows)):
        dots = [(row["parameter_free_normal"], row["error"]) for row in rows if row["search"] == name]
        style: dict[str, Any] = {"marker": MARKERS[n], "color": LINE_COLOURS[n], "linestyle": "none", "alpha": 0.8}
        ax.plot(*zip(*dots, strict=True), label=name, **style)
    ax.set(title=title, xlabel="pools and skips among the normal cell's operations (%)", ylabel="test error (%)")
    ax.set_xlim(-4, 104)
    ax.legend(title="searched by", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
