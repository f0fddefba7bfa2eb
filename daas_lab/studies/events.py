"""A run as TensorBoard events, while it is being made: scalars of every epoch, pictures of α, β and the cell.

The events are a copy for looking at; the run's own files stay the truth. When a run is resumed the scalars are written
anew from them, and pictures go on from there.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from daas_lab.config import SearchConfig
from daas_lab.errors import imported
from daas_lab.report import drawing, plots
from daas_lab.runs.folder import Run, read_run
from daas_lab.train.discretize import weight_evolution
from daas_lab.train.evolution import genotype_after


def follow(folder: str | Path) -> Callable[[], None]:
    """A function for the trainers to call after every epoch: it adds to `<folder>/tensorboard` what the run has new.

    Raises `LabError` if the package `tensorboard` is missing.
    """
    writer_class = imported("torch.utils.tensorboard", "tensorboard").SummaryWriter
    target, written = Path(folder) / "tensorboard", 0

    def add() -> None:
        nonlocal written
        if not written:
            shutil.rmtree(target, ignore_errors=True)
        run = read_run(folder)
        with writer_class(str(target)) as events:
            for record in run.history[written:]:
                for name, value in record.items():
                    if isinstance(value, int | float) and name != "epoch":
                        events.add_scalar(name, value, record["epoch"])
            for name, figure in _pictures(run).items():
                events.add_figure(name, figure, len(run.history), close=False)
        written = len(run.history)

    return add


def _pictures(run: Run) -> dict:
    """Name → figure of the architecture as it is after the last epoch; none for a retraining."""
    if not isinstance(run.config, SearchConfig):
        return {}
    figures = {}
    for name, evolution in weight_evolution(run).items():
        title = f"{name.capitalize()} cell"
        figures[f"operation_weights/{name}"] = plots.alpha_evolution(
            evolution.operations, operations=run.search.space.operations, title=title
        )
        if run.search.searcher.learns_edges:
            figures[f"edge_weights/{name}"] = plots.beta_evolution(evolution.edges, first_node=2, title=title)
    epoch = len(run.history)
    figures["cells"] = drawing.cells_figure(genotype_after(run), title=f"Epoch {epoch}, {run.search.budget}")
    return figures
