"""The methods of the field in one picture. Theme of `plots.py`; rows of `studies/field.py`, summarised over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from daas_lab.report.plots import DASHES, FAINT, MARKERS, method_colour, new_axes, themed


@themed
def gap_map(
    rows: Sequence[Mapping], *, lines: Mapping[str, tuple[float, float | None]] | None = None, title: str = ""
) -> Figure:
    """What the cut costs across, retrained error up, a point for each method with a bar of one standard deviation
    either way.

    `rows`: `method`, `drop_mean`, `error_mean` and their `_std`. `lines`: name → (error, deviation) of cells that were
    not searched here, across the whole picture.
    """
    ax = new_axes((9.2, 5.6))
    for m, row in enumerate(rows):
        colour = method_colour(row["method"], m)
        deviations: dict[str, Any] = {"xerr": row.get("drop_std") or 0, "yerr": row.get("error_std") or 0}
        style: dict[str, Any] = {"fmt": MARKERS[m % 7], "color": colour, "elinewidth": 0.8, "alpha": 0.9}
        ax.errorbar(row["drop_mean"], row["error_mean"], **deviations, **style, label=row["method"])
    for m, (name, (error, deviation)) in enumerate((lines or {}).items()):
        ax.axhline(error, color=FAINT, linestyle=DASHES[m % len(DASHES)], label=name)
        if deviation:
            ax.axhspan(error - deviation, error + deviation, color=FAINT, alpha=0.12, linewidth=0)
    ax.set_xscale("symlog", linthresh=1)  # from no loss at all to all that was learned
    ax.set(title=title, xlabel="accuracy lost at the cut (points)", ylabel="test error, retrained (%)")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + (len(rows) > 14))
    return ax.figure  # type: ignore[return-value]  # `new_axes` makes no sub-figure
