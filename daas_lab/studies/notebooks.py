"""All notebooks headless, how each of them ends, and the command that makes one's results again."""

import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from daas_lab.errors import imported, one_of, refuse
from daas_lab.identity import config_hash
from daas_lab.report import tables
from daas_lab.report.tables import Row
from daas_lab.runs.folder import Run
from daas_lab.runs.provenance import provenance
from daas_lab.studies.settings import Settings, project_folder


def reproduce(settings: Settings, names: Sequence[str] = ()) -> list[dict]:
    """Run the notebooks headless one after the other; rows of name, seconds and result. Finished runs are reused."""
    folder = project_folder() / "notebooks"
    notebooks = sorted(folder.glob("*.ipynb"))
    if not notebooks:
        raise refuse("notebooks", str(folder), "a folder that holds them")
    imported("papermill", "lab")
    for name in names:
        one_of("notebook", name, [path.stem for path in notebooks])
    notebooks = [path for path in notebooks if not names or path.stem in names]
    out = settings.runs / "notebooks" / settings.preset
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, path in enumerate(notebooks, start=1):
        print(f"[{number}/{len(notebooks)}] {path.stem}", file=sys.stderr, flush=True)
        begun = time.perf_counter()
        finished = subprocess.run(papermill_command(path, out / path.name, settings), check=False)
        outcome = "done" if finished.returncode == 0 else f"failed with exit code {finished.returncode}"
        rows.append({"notebook": path.stem, "seconds": math.ceil(time.perf_counter() - begun), "result": outcome})
    return rows


def save_results(
    stem: str,
    settings: Settings,
    rows: Sequence[Row],
    markdown: str | None = None,
    *,
    runs: Sequence[Row] = (),
    searches: Iterable[Run] = (),
    begun: float,
    beside: Mapping[str, Sequence[Row]] | None = None,
    more: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    notebook: str | None = None,
) -> None:
    """How a notebook ends: its table as `<stem>.json` and `<stem>.md` in `settings.folder`, where its pictures are.

    `markdown`, `runs` and `more` are those of `tables.save_table`, `searches` the runs behind the numbers (each
    counts once, though several rows be of it), `begun` what `time.perf_counter` said at the notebook's start, `beside`
    further tables of the same provenance by their stems, `dataset` what images of the notebook's own are called,
    `notebook` the notebook's stem, where it is not the table's.
    """
    command, seconds = command_text(notebook or stem, settings), time.perf_counter() - begun
    searches = {config_hash(run.config): run for run in searches}.values()
    facts = provenance(dataset or str(settings.dataset), settings.preset, command, seconds, searches)
    tables.save_table(stem, rows, facts, settings.folder, markdown, runs, more)
    for name, others in (beside or {}).items():
        tables.save_table(name, others, facts, settings.folder)
    print(f"{stem}: table and pictures are in {settings.folder}")


def command_text(stem: str, settings: Settings) -> str:
    """The command that makes a notebook's results again, for their provenance."""
    files = f"notebooks/{stem}.ipynb", f"runs/notebooks/{settings.preset}/{stem}.ipynb"
    paths = {spec.name for spec in fields(Settings) if spec.type is Path}
    options = (word for name, text in _options(settings) if name not in paths for word in ("-p", name, text))
    return shlex.join(["papermill", *files, *options])


def papermill_command(notebook: Path, output: Path, settings: Settings) -> list[str]:
    """The command that runs a notebook with these settings."""
    options = [word for name, text in _options(settings) for word in ("-p", name, text)]
    return [sys.executable, "-m", "papermill", str(notebook), str(output), "--log-output", *options]


def _options(settings: Settings) -> list[tuple[str, str]]:
    """Preset, data set and seeds, and what else differs from the defaults, as papermill takes them."""
    values = {spec.name: getattr(settings, spec.name) for spec in fields(Settings)}
    return [
        (spec.name, json.dumps(list(values[spec.name])) if spec.name == "seeds" else str(values[spec.name]))
        for spec in fields(Settings)
        if values[spec.name] != spec.default or spec.name in ("preset", "dataset", "seeds")
    ]
