"""The quickstart: the notebooks in a folder of one's own, the first of them headless, and in the terminal what it has
found: the table, what it means, where the pictures are, what to open next."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import daas_lab
from daas_lab.data.sources import facts_of
from daas_lab.errors import LabError, imported
from daas_lab.methods.lookup import BASELINE, PAPERS, method_class
from daas_lab.report.tables import Row, mean_std_text
from daas_lab.runs.provenance import machine_text
from daas_lab.studies.notebooks import papermill_command
from daas_lab.studies.paper_tables import is_main_drop
from daas_lab.studies.settings import Settings

NOTEBOOK = "00_quickstart"
NAMES = {method: method_class(method).title for method in (BASELINE, PAPERS)}


def quickstart(preset: str) -> str:
    """Run the first notebook on digits in the folder `notebooks` here, one seed; returns the `summary`.

    The preset `quick` in half its epochs, another one as it is.
    """
    for name in ("papermill", "ipykernel"):
        imported(name, "lab")
    settings = Settings(preset=preset, dataset="digits")
    if preset == "quick":  # half of what it has
        settings = replace(settings, epochs=20, retrain_epochs=10)
    notebooks, executed = Path("notebooks"), settings.runs / "notebooks" / preset / f"{NOTEBOOK}.ipynb"
    copy_notebooks(notebooks)
    executed.parent.mkdir(parents=True, exist_ok=True)
    command = papermill_command(notebooks / executed.name, executed, settings)
    if code := subprocess.run(command, check=False).returncode:
        raise LabError(f"{notebooks / executed.name} ended with exit code {code}: {executed} shows how far it came")
    print(f"executed notebook: {executed}")
    document = json.loads((settings.folder / f"{NOTEBOOK}.json").read_text(encoding="utf-8"))
    return summary(document, settings.folder)


def copy_notebooks(folder: Path) -> None:
    """Copy this version's notebooks to `folder`. What is there stays; where it is not the same, a line says so."""
    folder.mkdir(exist_ok=True)
    for ours in sorted((Path(daas_lab.__file__).parent / "notebooks").glob("*.ipynb")):
        there = folder / ours.name
        if not there.exists():
            there.write_bytes(ours.read_bytes())
        elif there.read_bytes() != ours.read_bytes():
            print(f"{there} is not this version's, and stays as it is", file=sys.stderr)


def summary(document: Mapping, folder: str | Path) -> str:
    """The text for the notebook's table, which lies in `folder` with the pictures."""
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
            f"Pictures  {folder}/{NOTEBOOK}_*.svg: drop, alpha, beta, cells_darts, cells_da2s",
            "Next      jupyter lab notebooks/explore.ipynb (make lab): both searches, epoch by epoch",
        ]
    )


def meaning(drops: Mapping[str, Row], errors: Mapping[str, Row]) -> str:
    """What the cut costs both methods, and what their cells are worth, whichever way the numbers point."""
    darts, da2s = (drops[method]["drop_mean"] for method in NAMES)
    text = f"The cut costs DARTS {darts:z.1f} points and DA²S {da2s:z.1f}: "
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
