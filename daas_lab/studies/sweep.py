"""Many runs on Ray: a file says which (sweep_file.py), a table says what came of them.

Runs lie where a notebook looks for them, and a finished one is reused. A run whose process or machine died is started
again and goes on from its last epoch. The machines of a cluster must share the folder `runs`.
"""

import itertools
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from daas_lab.config import WITHOUT_METHOD, RetrainConfig, SearchConfig
from daas_lab.data.batches import check_available
from daas_lab.errors import LabError, imported, refuse
from daas_lab.methods.rules import OWN
from daas_lab.report.tables import Row, summarise, to_markdown
from daas_lab.runs.folder import Run, epochs_done
from daas_lab.studies.make import (
    check_data,
    find_run,
    lacking_drops,
    make_run,
    measure_drops,
    names_of,
    run_folder,
    run_name,
)
from daas_lab.studies.paper_tables import is_main_drop, size_of
from daas_lab.studies.settings import Settings
from daas_lab.studies.sweep_file import Sweep
from daas_lab.studies.sweep_notebooks import NotebookRun, execute
from daas_lab.train.evolution import genotype_after
from daas_lab.train.loop import progress_bar

# How often a run is started again: enough for machines that are lost, not for a run that kills its own process.
RETRIES = 5

Member = SearchConfig | RetrainConfig | NotebookRun


# --- which runs -------------------------------------------------------------------------------------------------------


def planned(sweep: Sweep) -> list[tuple[str, str]]:
    """Name and state of every search, of the retrainings of those that are finished, and of every notebook."""
    return [(_name(member), _state(sweep, member)) for member in _known_members(sweep)]


def _name(member: Member) -> str:
    return member.name if isinstance(member, NotebookRun) else run_name(member)


def _known_members(sweep: Sweep) -> list[Member]:
    """Every search, what follows from those that are finished, and the notebooks; two searches may find one cell."""
    members: dict[Member, None] = {}
    for search in sweep.searches:
        members |= dict.fromkeys([search, *(config for _, _, config in _retrainings(sweep, search))])
    return [*members, *sweep.notebooks]


def _retrainings(sweep: Sweep, search: SearchConfig) -> Iterator[tuple[str, dict[str, Any], RetrainConfig]]:
    """Budget, changes and configuration of each retraining that follows a search; none before it is finished."""
    run = find_run(search, sweep.settings)
    if run is None:
        return
    for budget, changes in itertools.product(sweep.searches[search], sweep.retrainings):
        yield budget, changes, sweep.settings.retraining(genotype_after(run, budget=budget), search.seed, **changes)


def _state(sweep: Sweep, config: Member) -> str:
    if isinstance(config, NotebookRun):
        return "finished" if config.executed(sweep.settings).is_file() else "to be made"
    run = find_run(config, sweep.settings)
    if run is None:
        done = epochs_done(run_folder(config, sweep.settings))
        return f"epoch {done} of {config.epochs}" if done else "to be made"
    return "to be measured" if lacking_drops(run, _drops_of(sweep, config)) else "finished"


def _epochs_done(sweep: Sweep, member: Member) -> int:
    if isinstance(member, NotebookRun):
        return int(member.executed(sweep.settings).is_file())
    return epochs_done(run_folder(member, sweep.settings))


def _drops_of(sweep: Sweep, config: Member) -> list[tuple[str, str]]:
    """What is to be measured of a run: the whole cut at every budget, where there is a super-network."""
    if isinstance(config, SearchConfig) and config.searcher.trains:
        return [(budget, "both") for budget in sweep.searches[config]]
    return []


# --- on Ray -----------------------------------------------------------------------------------------------------------


def make(sweep: Sweep, address: str | None = None) -> dict[str, str]:
    """Make every run of the sweep that is not finished; run → error of those that failed, which stop no other.

    `address`: of a running Ray cluster, `auto` for the one on this machine; None starts Ray here and ends it.
    """
    missing = [member for member in _known_members(sweep) if _state(sweep, member) != "finished"]
    if not missing:
        return {}
    if any(isinstance(member, NotebookRun) for member in missing):
        imported("papermill", "lab")
    runs = [member for member in missing if not isinstance(member, NotebookRun)]
    if runs and sweep.retrainings:  # of cells that are only drawn too
        check_available(str(sweep.settings.dataset), sweep.settings.data)
    else:
        check_data(runs, sweep.settings)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports home unless told not to
    if address is not None:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # else it looks for a cluster for a quarter of an hour
    ray = imported("ray", "cluster")
    marker = sweep.settings.runs / "sweeps" / f".{uuid.uuid4().hex}"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    try:
        _connect(ray, address, sweep)
        return _make(ray, sweep, missing, marker)
    finally:
        ray.shutdown()
        marker.unlink()


def _connect(ray: Any, address: str | None, sweep: Sweep) -> None:
    # Left to itself Ray would go on from where the last cluster of this machine was, be it long gone.
    options = {"address": "local", "include_dashboard": False} if address is None else {"address": address}
    try:
        ray.init(**options, logging_level="error")
    except Exception as error:  # Ray raises a plain one where its own processes did not start in time
        if address is None:
            raise LabError(f"Ray cannot be started: {error}") from error
        said = f"{str(error).splitlines()[0]}; if it wants a token, set RAY_AUTH_MODE=token"
        raise refuse("address", address, f"that of a running Ray cluster ({said})") from error
    if address is None:  # a cluster may grow, this machine does not
        here = ray.cluster_resources()
        count = sweep.processes if sweep.retrainings else 1
        for name, asked in (("CPU", sweep.cpus), ("GPU", sweep.gpus)):
            if count * asked > here.get(name, 0):
                each = f", for each of {count} processes" if count > 1 else ""
                raise refuse(f"{name.lower()}s", asked, f"at most {here.get(name, 0):g}, which this machine has{each}")


def _make(ray: Any, sweep: Sweep, missing: list[Member], marker: Path) -> dict[str, str]:
    """Give Ray the missing runs and notebooks, and the retrainings of a search when it ends."""
    task = ray.remote(max_retries=RETRIES)(_run)
    threads = max(1, int(sweep.cpus))
    begun, pending, failed = [], {}, {}

    def submit(members: Iterable[Member]) -> None:
        for member in members:
            count = sweep.processes if isinstance(member, RetrainConfig) else 1
            allotted = task.options(num_cpus=count * sweep.cpus, num_gpus=count * sweep.gpus)
            given = member, _drops_of(sweep, member), sweep.settings, threads, count, marker
            pending[allotted.remote(*given)] = member
            begun.append(member)

    submit(missing)
    after_each_cell = sum(sweep.settings.retraining("DARTS_V2", 0, **changes).epochs for changes in sweep.retrainings)
    with progress_bar(0) as bar:
        while pending:
            searches = [config for config in pending.values() if isinstance(config, SearchConfig)]
            expected = after_each_cell * sum(len(sweep.searches[search]) for search in searches)
            bar.total = sum(member.epochs for member in begun) + expected
            bar.update(sum(_epochs_done(sweep, member) for member in begun) - bar.n)

            ended, _ = ray.wait(list(pending), timeout=1)
            for reference in ended:
                config = pending.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    failed[_name(config)] = _said(error)
                    continue
                if isinstance(config, SearchConfig):
                    following = dict.fromkeys(retraining for _, _, retraining in _retrainings(sweep, config))
                    submit(new for new in following if new not in begun and find_run(new, sweep.settings) is None)
    return failed


def _said(error: Exception) -> str:
    """What a process of Ray's says of its failure, in one line: of what is no word of ours also where it was raised."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, LabError):
        return str(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    frames = [line for line in lines if line.startswith('File "')]
    if cause is error:
        return lines[-1]
    said = f"{type(cause).__name__}: {next(iter(str(cause).strip().splitlines()), '')}"
    return f"{said} ({frames[-1]})" if frames else said


def _run(
    config: Member, drops: list[tuple[str, str]], settings: Settings, threads: int, processes: int, marker: Path
) -> None:
    """One run in a process of Ray's: train it if it is not finished, then measure the drops of a search."""
    if not marker.is_file():
        raise refuse("runs", str(settings.runs), f"a folder that all machines share; {os.uname().nodename} lacks it")
    if isinstance(config, NotebookRun):
        execute(config, settings)
    elif find_run(config, settings) is None:
        make_run(config, settings, threads, processes)
    if drops and isinstance(config, SearchConfig):
        measure_drops(run_folder(config, settings), config, drops, settings.data, OWN, threads)


# --- what came of them ------------------------------------------------------------------------------------------------


def finished(sweep: Sweep) -> list[Run]:
    """The runs behind the rows: searches and retrainings."""
    configs = [member for member in _known_members(sweep) if not isinstance(member, NotebookRun)]
    return [run for config in configs if (run := find_run(config, sweep.settings))]


def rows_of(sweep: Sweep) -> list[Row]:
    """A row for every cell of the finished searches, and where cells are retrained for each retraining of it.

    `names_of` the search, the fields that the file names (those of a retraining as `retrain_<name>`) and `budget`;
    `params_m`; accuracy `before` and `after` the cut and their `drop`, as `is_main_drop` chooses; test `error`, None
    where the retraining is missing.
    """
    rows: list[Row] = []
    for search, budgets in sweep.searches.items():
        run = find_run(search, sweep.settings)
        if run is None:
            continue
        drops = {row["budget"]: row for row in run.gap if is_main_drop({"method": search.label} | row)}
        cells = {}
        for budget in budgets:
            row = names_of(run) | {name: _named_value(search, name) for name in sweep.named} | {"budget": budget}
            row |= {"params_m": size_of(genotype_after(run, budget=budget))["params_m"]}
            if budget in drops:
                before, after = drops[budget]["before"], drops[budget]["after"]
                row |= {"before": before, "after": after, "drop": before - after}
            cells[budget] = row
        if not sweep.retrainings:
            rows += cells.values()
        for budget, changes, config in _retrainings(sweep, search):
            retrained = find_run(config, sweep.settings)
            named = {f"retrain_{name}": value for name, value in changes.items()}
            rows.append(cells[budget] | named | {"error": retrained and retrained.result["test_error"]})
    return rows


def _named_value(search: SearchConfig, name: str) -> Any:
    """Of a field of the search, or of a number of its method; None where it has none."""
    if name in WITHOUT_METHOD and name not in {spec.name for spec in fields(search.method_class)}:
        return None
    return search.label if name == "method" else getattr(search, name, dict(search.numbers).get(name))


def table(sweep: Sweep) -> tuple[list[Row], str]:
    """`rows_of` as means over the seeds, and the same as Markdown."""
    named = [*sweep.named, *dict.fromkeys(f"retrain_{name}" for changes in sweep.retrainings for name in changes)]
    rows = rows_of(sweep)
    measured = [name for name in ("before", "after", "drop", "error", "params_m") if any(name in row for row in rows)]
    rows = summarise(rows, named, measured)
    # A setting is printed as it was given: two learning rates must not be rounded to the same.
    printed = [row | {name: str(row[name]) for name in named if row[name] is not None} for row in rows]
    fewer = ["error_seeds"] if any("error_seeds" in row for row in rows) else []
    return rows, to_markdown(printed, (*named, *measured, "seeds", *fewer))
