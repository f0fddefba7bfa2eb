"""What the quickstart has found, for a terminal: the table, what it means, where the pictures are, what to open next.

python -m daas_lab.studies.quickstart runs/figures/quick/00_quickstart.json
"""

import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from daas_lab.data.sources import facts_of
from daas_lab.methods.lookup import BASELINE, PAPERS, method_class
from daas_lab.report.tables import Row, mean_std_text
from daas_lab.runs.provenance import machine_text
from daas_lab.studies.paper_tables import is_main_drop

NAMES = {method: method_class(method).title for method in (BASELINE, PAPERS)}


def summary(document: Mapping, folder: str | Path) -> str:
    """The text for `00_quickstart.json`, which lies in `folder` with the pictures."""
    facts, rows = document["provenance"], document["rows"]
    drops = {row["method"]: row for row in rows if "edge_weight" in row and is_main_drop(row)}
    errors = {row["method"]: row for row in rows if "test_error_mean" in row}
    seeds, classes = drops[BASELINE]["seeds"], facts_of(facts["dataset"]).classes
    table = [["", "before the cut", "after the cut", "test error of the cell, trained again"]]
    for method, name in NAMES.items():
        measured = [(drops[method], "before"), (drops[method], "after"), (errors[method], "test_error")]
        table.append([name, *(mean_std_text(row[f"{what}_mean"], row[f"{what}_std"]) for row, what in measured)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join(
        [
            "",
            f"Accuracies and errors (%) on {facts['dataset']}, cut to {drops[BASELINE]['budget']} of the edges, "
            f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
            "",
            *lines,
            "",
            textwrap.fill(f"Chance is {100 / classes:g} %. {meaning(drops, errors)}", 100),
            "",
            f"Time      {facts['wall_s']:.0f} s on {machine_text(facts['machine'])}",
            f"Pictures  {folder}/00_quickstart_*.svg: drop, alpha, beta, cells_darts, cells_da2s",
            "Next      make lab: both searches epoch by epoch, cut to any budget",
        ]
    )


def meaning(drops: Mapping[str, Row], errors: Mapping[str, Row]) -> str:
    """What the cut costs both methods, and what their cells are worth, whichever way the numbers point."""
    darts, da2s = (drops[method]["drop_mean"] for method in NAMES)
    text = f"The cut costs DARTS {darts:.1f} points and DA²S {da2s:.1f}: "
    if darts <= 0:
        text += "here there is no gap to close."
    elif da2s < darts:
        text += f"DA²S, which decides while it searches, avoids {min(1, 1 - da2s / darts):.0%} of the loss."
    else:
        text += "here DA²S does not close the gap."
    better, worse = sorted(NAMES, key=lambda method: errors[method]["test_error_mean"])
    difference = errors[worse]["test_error_mean"] - errors[better]["test_error_mean"]
    if difference == 0:
        return f"{text} Their cells, trained again, err equally often."
    text += f" Trained again, the cell of {NAMES[better]} errs less, by {difference:.2f} points"
    if (seeds := len(drops[BASELINE]["seeds"])) == 1:
        return f"{text}; one seed does not say whether that is chance."
    return f"{text} in the mean of {seeds} seeds."


def main(arguments: Sequence[str]) -> None:
    """Print the summary of the file that is named."""
    path = Path(arguments[0])
    print(summary(json.loads(path.read_text(encoding="utf-8")), path.parent))


if __name__ == "__main__":
    main(sys.argv[1:])
