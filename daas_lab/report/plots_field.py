"""The methods of the field in one picture. Theme of `plots.py`; rows of `studies/field.py`, summarised over seeds."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from daas_lab.report.plots import DASHES, FAINT, INK, LINE_COLOURS, MARKERS, method_colour, new_axes, themed


@themed
def gap_map(
    rows: Sequence[Mapping], *, lines: Mapping[str, tuple[float, float | None]] | None = None, title: str = ""
) -> Figure:
    """What the cut costs across, retrained error up, a point for each method with a bar of one standard deviation
    either way.

    `rows`: `method`, `drop_mean`, `error_mean` and their `_std`; those that lack one are left out. `lines`: name →
    (error, deviation) of cells that were not searched here, across the whole picture.
    """
    ax = new_axes((9.2, 5.6))
    rows = [row for row in rows if None not in (row.get("drop_mean"), row.get("error_mean"))]
    for m, row in enumerate(rows):
        colour = method_colour(row["method"], m)
        deviations: dict[str, Any] = {"xerr": row.get("drop_std") or 0, "yerr": row.get("error_std") or 0}
        style: dict[str, Any] = {"fmt": MARKERS[m % 7], "color": colour, "elinewidth": 0.8, "alpha": 0.9}
        ax.errorbar(row["drop_mean"], row["error_mean"], **deviations, **style, label=row["method"])
    for m, (name, (error, deviation)) in enumerate((lines or {}).items()):
        ax.axhline(error, color=FAINT, linestyle=DASHES[m % len(DASHES)], label=name + " ± std" * bool(deviation))
        if deviation:
            ax.axhspan(error - deviation, error + deviation, color=FAINT, alpha=0.12, linewidth=0)
    ax.set(title=title, xlabel="accuracy lost at the cut (points)", ylabel="test error, retrained (%)")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + (len(rows) > 14))
    return ax.figure  # type: ignore[return-value]  # `new_axes` makes no sub-figure


@themed
def gap_parts(rows: Sequence[Mapping], *, title: str = "") -> Figure:
    """What the drop at the cut is made of: a panel a budget, a bar a method, the smallest drop at the first budget on
    top, with a mark at the drop. The selection part first, the computation part on from there; of two with different
    signs each begins at 0.

    `rows`: `method`, `budget`, `drop_mean`, `selection_part_mean` and `computation_part_mean`; those without parts are
    left out.
    """
    rows = [row for row in rows if row.get("selection_part_mean") is not None]
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    first = {row["method"]: row["drop_mean"] for row in rows if row["budget"] in budgets[:1]}
    methods = sorted(dict.fromkeys(row["method"] for row in rows), key=lambda name: first.get(name, 0))
    size = max(7.8, 4.4 * len(budgets) + 1.2), 1.5 + 0.27 * len(methods)  # the legend is a line as long as that
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, max(1, len(budgets)), sharey=True, sharex=True, squeeze=False)[0]
    for ax, budget in zip(panels, budgets, strict=False):
        own = [row for row in rows if row["budget"] == budget]
        y = [methods.index(row["method"]) for row in own]
        selection, computation = ([row[f"{part}_part_mean"] for row in own] for part in ("selection", "computation"))
        ax.barh(y, selection, color=LINE_COLOURS[0], label="selection: another function")
        left = [one if one * other > 0 else 0.0 for one, other in zip(selection, computation, strict=True)]
        ax.barh(y, computation, left=left, color=FAINT, label="computation: statistics and scales")
        ax.plot([row["drop_mean"] for row in own], y, "D", color=INK, markersize=3.5, label="the drop")
        ax.set(title=budget, xlabel="accuracy lost at the cut (points)")
        ax.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(title)
    return figure


@themed
def error_over_epochs(rows: Sequence[Mapping], *, title: str = "") -> Figure:
    """Test error after so many epochs of retraining, a line for each method and `start`, in alphabetical order the
    first start drawn through and the next dashed, with a bar of one standard deviation.

    `rows`: `method`, `start`, `epochs`, `error_mean` and `error_std`.
    """
    ax = new_axes((8.6, 4.4))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    starts = sorted(dict.fromkeys(row["start"] for row in rows))
    for m, method in enumerate(methods):
        for start in starts:
            own = [row for row in rows if (row["method"], row["start"]) == (method, start)]
            own.sort(key=itemgetter("epochs"))
            x, y = [row["epochs"] for row in own], [row["error_mean"] for row in own]
            style: dict[str, Any] = {"color": method_colour(method, m), "linestyle": DASHES[starts.index(start)]}
            bars = [row["error_std"] or 0 for row in own]
            ax.errorbar(x, y, bars, label=f"{method}, {start}", marker=MARKERS[m % 7], elinewidth=0.8, **style)
    ax.set_yscale("log")
    for axis in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        axis("{x:g}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(title=title, xlabel="epochs of retraining", ylabel="test error (%), logarithmic")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3.5)
    return ax.figure  # type: ignore[return-value]  # as above


@themed
def changes(rows: Sequence[Mapping], quantities: Mapping[str, str], *, base: str, title: str = "") -> Figure:
    """What one changed constant does: a panel for each of `quantities` (name → label), a line for each constant, a
    point with a bar of one standard deviation for each side; dashed where that side is with `base` changed: nothing.

    `rows`: `side`, `changed`, and mean and `_std` of each quantity.
    """
    names, sides = (list(dict.fromkeys(row[key] for row in rows)) for key in ("changed", "side"))
    figure = Figure(figsize=(3.1 * len(quantities) + 2.2, 1.4 + 0.42 * len(names)), layout="constrained")
    for ax, (quantity, label) in zip(figure.subplots(1, len(quantities), sharey=True), quantities.items(), strict=True):
        for s, side in enumerate(sides):
            style: dict[str, Any] = {"color": LINE_COLOURS[s], "fmt": MARKERS[s], "elinewidth": 0.9}
            own = [row for row in rows if row["side"] == side and row.get(f"{quantity}_mean") is not None]
            for k, row in enumerate(own):
                y = names.index(row["changed"]) + 0.24 * (s - (len(sides) - 1) / 2)
                seen = None if k else side
                ax.errorbar(row[f"{quantity}_mean"], y, xerr=row.get(f"{quantity}_std") or 0, label=seen, **style)
                if row["changed"] == base:
                    ax.axvline(row[f"{quantity}_mean"], color=LINE_COLOURS[s], linestyle=DASHES[1], alpha=0.6)
        ax.set(xlabel=label)
        ax.grid(axis="y", visible=False)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(sides))
    figure.suptitle(title)
    return figure
