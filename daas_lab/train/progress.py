"""How far a search is, in a line: accuracy before → after the cut, edges decided, time left."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from daas_lab.config import SearchConfig
from daas_lab.runs.folder import Run, timings
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.train.evolution import decided_edges

RECENT = 5  # epochs whose seconds say how long the next ones take


def search_line(config: SearchConfig, records: Iterable[dict], parameters: Mapping[str, Tensor | np.ndarray]) -> str:
    """Where a search is after the last of its `records`, with the α and β that it has then.

    Held-out accuracy, and where the cut was measured, what that leaves: to the search's own budget if that is among the
    measured ones. Where the last measurement is older, its accuracies follow with its epoch. What was not measured is
    not said.
    """
    records = list(records)
    last = records[-1]
    measured = next((record for record in reversed(records) if record.get("gap")), None)
    parts = []
    if measured is not last and "held_out_accuracy" in last:
        parts.append(f"accuracy {last['held_out_accuracy']:.1f} %")
    if measured:
        row = next((row for row in measured["gap"] if row["budget"] == config.budget), measured["gap"][0])
        at = [row["budget"]] * (row["budget"] != config.budget)
        at += [f"epoch {measured['epoch']}"] * (measured is not last)
        which = "accuracy " * (measured is last)
        parts.append(f"{which}{row['before']:.1f} → {row['after']:.1f} %" + (f" at {', '.join(at)}" if at else ""))
    edges = len(CELL_TYPES) * len(config.space.edges)
    return ", ".join([*parts, f"{decided_edges(config, parameters, last['epoch'])}/{edges} edges decided"])


def run_line(run: Run) -> str:
    """`search_line` of a search as its folder has it; nothing where that is no search or has no epoch yet."""
    if not isinstance(run.config, SearchConfig) or not run.history or not run.alphas:
        return ""
    return search_line(run.config, run.history, run.architecture())


def time_left(folder: str | Path, epochs: int) -> str:
    """How long `epochs` more of the run in `folder` take at the pace of its last ones; nothing where none is known."""
    seconds = [entry["seconds"] for entry in timings(Path(folder))][-RECENT:]
    return f"{tqdm.format_interval(epochs * sum(seconds) / len(seconds))} left" if seconds and epochs else ""
