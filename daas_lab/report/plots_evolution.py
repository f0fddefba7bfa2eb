"""How a search came to its cell, drawn from the rows of `evolution.py`. Theme of `plots.py`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from daas_lab.report.plots import CELL_NAMES, DASHES, INK, LINE_COLOURS, method_colour, new_axes, themed
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.space.operations import OPERATIONS, operation_colour

PANELS = {
    "skip_connections": "skip-connections in the cell",
    "largest_operation_weight": "largest weight a, mean over the edges",
    "operation_entropy": "entropy of a (nats), mean over the edges",
    "edge_entropy": "entropy of b (nats), mean over the nodes",
}


@themed
def accuracies(
    series: Mapping[str, Sequence[tuple[int, float]]], epochs: int, *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Accuracies in percent over the epochs 0 … `epochs`, a line for each of `series`: label → (epoch, accuracy)."""
    ax = ax or new_axes((9.6, 3.1))
    for n, (label, points) in enumerate(series.items()):
        # A single point is no line, and many lines share a colour: no two share colour and dashes.
        style: dict[str, Any] = {"color": LINE_COLOURS[n % 7], "linestyle": DASHES[(n + n // 7) % 7]}
        ax.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label, **style)
    ax.set(title=title, xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 102), xlim=(0, epochs))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + (len(series) - 1) // 16)
    return ax


@themed
def epoch_summary(rows: Sequence[Mapping], *, title: str = "The search over its epochs") -> Figure:
    """Skip-connections, largest operation weight and entropies over the epochs, a line for each cell type.

    `rows`: those of `evolution.epoch_summaries`.
    """
    figure = Figure(figsize=(8.6, 5.4), layout="constrained")
    for ax, (quantity, label) in zip(figure.subplots(2, 2, sharex=True).flat, PANELS.items(), strict=True):
        for n, name in enumerate(CELL_TYPES):
            points = [(row["epoch"], row[quantity]) for row in rows if row["cell"] == name]
            style = {"color": LINE_COLOURS[n], "linestyle": DASHES[n]}
            if quantity == "skip_connections":
                style["drawstyle"] = "steps-post"
            ax.plot(*zip(*points, strict=True), label=CELL_NAMES[name], **style)
        ax.set(title=label)
        ax.set_ylim(bottom=0)
        if quantity == "skip_connections":
            ax.yaxis.get_major_locator().set_params(integer=True)
            ax.legend()
    for ax in figure.axes[2:]:
        ax.set_xlabel("epoch")
    figure.suptitle(title)
    return figure


@themed
def entropies(series: Mapping[str, Mapping[str, Sequence[float]]], *, title: str = "") -> Figure:
    """Mean entropies of operation and edge weights over a search, a line for each of `series`: label →
    `operation_entropy` and `edge_entropy` [T]. Searches may differ in length: across is the share of each."""
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    for ax, quantity in zip(figure.subplots(1, 2), ("operation_entropy", "edge_entropy"), strict=True):
        for n, (label, own) in enumerate(series.items()):
            share = np.linspace(0, 100, len(own[quantity]))
            style: dict[str, Any] = {"color": method_colour(label, n), "linestyle": DASHES[n % len(DASHES)]}
            ax.plot(share, own[quantity], label=label, **style)
        ax.set(title=PANELS[quantity], xlabel="share of the search (%)", xlim=(0, 100))
        ax.set_ylim(bottom=0)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(title)
    return figure


@themed
def collapse(series: Mapping[str, Mapping[str, Sequence[float]]], *, title: str = "") -> Figure:
    """Pools and skips among the kept operations, and the entropy's share of α's movement so far, over the epochs; a
    line for each of `series`: label → `parameter_free` [T] from the start on, and `share` [T − 1], both in percent."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    labels = {"parameter_free": "pools and skips kept (%)", "share": "of all of α's movement so far by the entropy (%)"}
    for ax, (quantity, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        for n, (name, own) in enumerate(series.items()):
            first = 0 if quantity == "parameter_free" else 1
            epochs = range(first, first + len(own[quantity]))
            ax.plot(epochs, own[quantity], color=LINE_COLOURS[n % 7], linestyle=DASHES[n % 7], label=name)
        ax.set(title=label, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(series))
    figure.suptitle(title)
    return figure


@themed
def settling(rows: Sequence[Mapping], epochs: int, *, title: str = "When each edge settled") -> Figure:
    """A bar for every edge, in the colour of its operation, from the epoch on since which that is its strongest.

    A mark stands where the edge was last taken into the cell (filled) or left out of it (hollow, its bar pale). `rows`:
    those of `evolution.settled_edges`; `epochs` of the search.
    """
    panels = {name: [row for row in rows if row["cell"] == name] for name in CELL_TYPES}
    figure = Figure(figsize=(9.6, 1.6 + 0.24 * max(map(len, panels.values()))), layout="constrained")
    for ax, (name, own) in zip(figure.subplots(1, 2, sharex=True), panels.items(), strict=True):
        for y, row in enumerate(own):
            # An edge that was still changing at the end has a bar too, of the last epoch's width.
            start = min(row["operation_epoch"], epochs - 0.5)
            colour, alpha = operation_colour(row["operation"]), 1.0 if row["kept"] else 0.35
            ax.barh(y, epochs - start, 0.62, start, color=colour, alpha=alpha, linewidth=0)
            face = INK if row["kept"] else "white"
            ax.plot(row["kept_epoch"], y, "o", color=INK, markerfacecolor=face, markersize=5, clip_on=False, zorder=3)
        ax.set_yticks(range(len(own)), [f"{row['source']} → {row['node']}" for row in own])
        ax.set(title=CELL_NAMES[name], xlabel="epoch", xlim=(0, epochs), ylim=(len(own) - 0.4, -0.6))
        ax.grid(axis="y", visible=False)
    figure.axes[0].set_ylabel("edge (source → node)")
    found = [operation for operation in OPERATIONS if any(row["operation"] == operation for row in rows)]
    handles: list[Artist] = [Patch(color=operation_colour(operation), label=operation) for operation in found]
    for label, face in (("kept since", INK), ("left out since", "white")):
        handles.append(Line2D([], [], color=INK, marker="o", markerfacecolor=face, linestyle="", label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    figure.suptitle(title)
    return figure
