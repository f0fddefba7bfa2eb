"""Give me this run: reuse it if it is finished, resume it if it was begun, make it if it is missing.

Notebooks state their parameters, ask for runs by configuration and draw what comes back. "The same run" is decided by
`identity.config_hash`. Runs are made in processes of their own, several side by side.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from daas_lab.config import RetrainConfig, SearchConfig, check_labels, name_own_files
from daas_lab.data.batches import check_available
from daas_lab.data.sources import short_name
from daas_lab.errors import LabError, refuse
from daas_lab.identity import config_hash
from daas_lab.methods import rules
from daas_lab.own_files import find_at, known_places
from daas_lab.runs.folder import Run, epochs_done, keep_measured, read_finished, read_run
from daas_lab.runs.lock import BeingWritten, locked, writer
from daas_lab.runs.records import read_record, write_record
from daas_lab.space.budget import EdgeBudget
from daas_lab.studies.settings import Settings
from daas_lab.train.attribution import node_costs
from daas_lab.train.discretize import accuracy_drops
from daas_lab.train.distributed import launch
from daas_lab.train.evolution import genotype_after
from daas_lab.train.loop import LATE_PARTS, LINE, prepare, progress_bar
from daas_lab.train.perturbation import keep_perturbed_cells
from daas_lab.train.progress import run_line
from daas_lab.train.retrain import retrain
from daas_lab.train.search import search, supernets_at
from daas_lab.train.splits import search_splits

Budgets = Sequence[str] | Callable[[Run], Sequence[str]]  # the same for all searches, or those of each


def run_name(config: SearchConfig | RetrainConfig) -> str:
    """The name of a run's folder: readable, and the same exactly for the same configuration."""
    kind = config.label if isinstance(config, SearchConfig) else "retrain"
    return f"{kind}-{short_name(config.dataset)}-s{config.seed}-{config_hash(config)}"


def make_runs(
    configs: Sequence[SearchConfig | RetrainConfig],
    settings: Settings,
    stands: Callable[[Run], bool] = lambda record: True,
) -> list[Run]:
    """The finished run of every configuration, in their order; what is missing is made first, side by side.

    A record in `settings.figures` counts as a finished run, without its weights, if it `stands` for one. A bar counts
    epochs. When a run fails the others are stopped where they are, to be resumed, and its error is raised. Where images
    are missing that one of them needs, none is started.
    """
    check_labels(configs)
    runs = {config: _finished(config, settings, stands) for config in configs}
    for run in filter(None, runs.values()):
        _publish(run, settings)
    missing = [config for config, run in runs.items() if run is None]
    if missing and settings.finished_only:
        allowed = f"False to begin {len(missing)} runs that are not finished, {run_name(missing[0])} the first"
        raise refuse("finished_only", True, allowed)
    check_data(missing, settings)
    tasks = [(make_run, (config, settings)) for config in missing]
    folders = [run_folder(config, settings) for config in missing]

    bar = progress_bar(sum(config.epochs for config in missing), bar_format=LINE, disable=not missing)
    epochs = dict.fromkeys(folders, 0)

    def done(_) -> int:
        for config, folder in zip(missing, folders, strict=True):
            if (now := epochs_done(folder)) != epochs[folder]:
                epochs[folder] = now
                with contextlib.suppress(LabError):  # of a folder that is being written
                    which = f"{run_name(config).split('-')[0]} s{config.seed} " * (len(missing) > 1)
                    line = [f"{which}epoch {now}/{config.epochs}", run_line(read_run(folder))]
                    bar.set_postfix_str(", ".join(filter(None, line)), refresh=False)
        return sum(epochs.values())

    _side_by_side(tasks, settings, bar, done)
    return [runs[config] or read_run(run_folder(config, settings)) for config in configs]


def wanted(
    configs: Iterable[SearchConfig | RetrainConfig],
    settings: Settings,
    stands: Callable[[Run], bool] = lambda record: True,
) -> list[Any]:
    """Those of `configs` that a study of these settings is made of, as `make_runs` takes them: all, or with
    `finished_only` those that are finished."""
    return [config for config in configs if not settings.finished_only or _finished(config, settings, stands)]


def _finished(config: SearchConfig | RetrainConfig, settings: Settings, stands: Callable[[Run], bool]) -> Run | None:
    """`find_run`, but of records only one that `stands` for its run."""
    run = find_run(config, settings)
    return run if run and (run.folder or stands(run)) else None


def check_data(configs: Iterable[SearchConfig | RetrainConfig], settings: Settings) -> None:
    """Raise unless the images are here that these runs need; a cell that is only drawn needs none."""
    trained = [config for config in configs if isinstance(config, RetrainConfig) or config.searcher.trains]
    for dataset in dict.fromkeys(config.dataset for config in trained):
        check_available(dataset, settings.data)


def run_folder(config: SearchConfig | RetrainConfig, settings: Settings) -> Path:
    return settings.runs / run_name(config)


def _record(config: SearchConfig | RetrainConfig, settings: Settings) -> Path:
    return settings.figures / "records" / f"{run_name(config)}.json"


def find_run(config: SearchConfig | RetrainConfig, settings: Settings) -> Run | None:
    """The finished run in the runs folder if no file of it is damaged, else its record, else None."""
    folder, record = run_folder(config, settings), _record(config, settings)
    run = read_finished(folder) or (read_record(record) if settings.records and record.is_file() else None)
    if run and config_hash(run.config) != config_hash(config):
        raise LabError(
            f"{run.folder or record} holds another run, {run_name(run.config)}: must have the name of its own"
        )
    return run


def _publish(run: Run, settings: Settings) -> None:
    if settings.publish and settings.records and run.folder is not None:
        record = _record(run.config, settings)
        if record.is_file():  # what it has measured and the folder has not is not lost
            with contextlib.suppress(LabError):
                known = read_record(record)
                if known.history == run.history:  # else of another training, on another machine: other networks
                    cells = {rule: own | run.cells.get(rule, {}) for rule, own in known.cells.items()}
                    run = replace(run, gap=_with_cuts_of(run.gap, known.gap), cells=run.cells | cells)
        write_record(run, record)


def _side_by_side(
    tasks: Sequence[tuple[Callable, tuple]], settings: Settings, bar: tqdm, done: Callable[[int], int]
) -> None:
    """Run the tasks (function, arguments) in processes of their own; `done(ended tasks)`: how far `bar` has come."""
    cores = _cores() if settings.device == "cpu" else 1
    workers = min(settings.workers or cores, len(tasks))
    if not tasks:
        return
    # Side by side each has its share of the cores: two processes that both use every core slow each other down.
    threads = max(1, cores // workers) if workers > 1 else 0
    # The server imports torch once and forks from there: a process starts at once, and none inherits our threads.
    context = multiprocessing.get_context("forkserver")
    late = [*LATE_PARTS, *(["sklearn.datasets"] * (settings.dataset == "digits"))]
    context.set_forkserver_preload(["daas_lab.studies.make", *late])
    pids = context.SimpleQueue()  # of the processes that are ours: a notebook may have others
    pool = ProcessPoolExecutor(workers, context, _begin, (pids, known_places()), max_tasks_per_child=1)
    started = [pool.submit(function, *arguments, threads) for function, arguments in tasks]
    pending = set(started)
    try:
        with bar:
            while pending:
                finished, pending = wait(pending, timeout=1, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                bar.update(done(len(tasks) - len(pending)) - bar.n)
    finally:
        for future in started:
            future.cancel()
        ours: set[int] = set()
        while not all(future.done() for future in started):
            while not pids.empty():
                ours.add(pids.get())
            for child in multiprocessing.active_children():
                if child.pid in ours:
                    child.terminate()
            time.sleep(0.1)
        pool.shutdown()  # not before: its thread may still be about to start a process, and would miss its list of them


def _begin(pids: Any, places: dict[tuple[str, str], str]) -> None:
    """In a new process: say its number, know the `places` of files of one's own, and end with the process that asked
    for it, however that ends."""
    pids.put(os.getpid())
    find_at(places)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _cores() -> int:
    """How many cores this process may use, which a container or `taskset` may have made fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_run(config: SearchConfig | RetrainConfig, settings: Settings, threads: int, processes: int = 1) -> None:
    """Make a run; where another process is already at it (another notebook's, say), wait for that.
    `processes` of `threads` each train it together.

    Its record is published here, not after the last of all runs: what ended stays, whatever becomes of the others.
    """
    folder = run_folder(config, settings)
    made = False
    while not made:
        while writer(folder) is not None:
            time.sleep(1)
        with contextlib.suppress(BeingWritten):  # another began it while this one read its images
            launch(processes, _train, replace(config, threads=threads), folder, settings.data)
            made = True
    _publish(read_run(folder), settings)


def _train(config: SearchConfig | RetrainConfig, folder: Path, data: Path) -> None:
    name_own_files(config)
    if isinstance(config, SearchConfig):
        search(config, folder, data, progress=False)
    else:
        retrain(config, folder, data, progress=False)


def drops(
    runs: Sequence[Run],
    budgets: Budgets,
    settings: Settings,
    stages: Sequence[str] = ("both",),
    select: str = rules.OWN,
    progress: bool = True,
) -> list[dict]:
    """Accuracy-drop rows of searches for `budgets` (or those that it gives for a run), every combination of edge weight
    and batch-norm, with `names_of` the search beside them and `drop` = before − after. `stages`: those of
    `discretize.STAGES`, and `node` for the rows of `attribution.node_costs`. `select`: a rule of `methods.rules`, named
    in the rows where it is not the method's own.

    What is missing is measured side by side and kept in the run's folder; a record that lacks a budget is refused, for
    it has no weights to measure with.
    """
    if "node" in stages and select != rules.OWN:
        raise refuse("select", select, f"{rules.OWN} for what each node costs")
    wanted = [
        [
            (str(EdgeBudget.parse(budget)), stage)
            for budget in (budgets(run) if callable(budgets) else budgets)
            for stage in stages
        ]
        for run in runs
    ]
    missing: dict[Path, tuple[SearchConfig, list[tuple[str, str]]]] = {}
    for run, keys in zip(runs, wanted, strict=True):
        lacking = lacking_drops(run, keys, select)
        if lacking and run.folder is None:
            path, texts = _record(run.config, settings), ", ".join(f"{budget} ({stage})" for budget, stage in lacking)
            raise LabError(f"{path} has no drops at {texts}; without the record, the run is made again")
        if lacking and run.folder is not None:
            missing[run.folder] = run.search, lacking
    check_data([config for config, _ in missing.values()], settings)
    tasks = [(measure_drops, (folder, *lacking, settings.data, select)) for folder, lacking in missing.items()]
    bar = progress_bar(len(tasks), unit="gap", disable=not (tasks and progress))
    _side_by_side(tasks, settings, bar, lambda ended: ended)
    rows = []
    for run, keys in zip(runs, wanted, strict=True):
        if run.folder is not None and run.folder in missing:
            run = read_run(run.folder)
            _publish(run, settings)
        asked = {(*key, select) for key in keys}
        measured = [row for row in run.gap if _drop_key(row) in asked]
        rows += [names_of(run) | row | {"drop": row["before"] - row["after"]} for row in measured]
    return rows


def names_of(run: Run) -> dict:
    """Which search a row is of: `run`, by which rows are joined, `protocol`, `method` and `seed`."""
    config = run.search
    return {"run": run_name(config), "protocol": config.protocol, "method": config.label, "seed": config.seed}


def _with_cuts_of(rows: list[dict], others: list[dict]) -> list[dict]:
    """The rows of drops, and those others whose cuts they lack: measured twice, a cut may differ in its last digits."""
    measured = set(map(_cut_of, rows))
    return rows + [row for row in others if _cut_of(row) not in measured]


def _cut_of(row: dict) -> tuple:
    """What was measured in a row of drops, whatever came out."""
    return *_drop_key(row), *(row.get(name) for name in ("node", "edge_weight", "batch_norm"))


def _drop_key(row: dict) -> tuple[str, str, str]:
    return row["budget"], row["stage"], row.get("select", rules.OWN)


def lacking_drops(run: Run, keys: Sequence[tuple[str, str]], select: str = rules.OWN) -> list[tuple[str, str]]:
    """Those (budget, stage) of `keys` of which the run has no drops by the rule `select`."""
    measured = set(map(_drop_key, run.gap))
    return [key for key in keys if (*key, select) not in measured]


def measure_drops(
    folder: Path, config: SearchConfig, keys: Sequence[tuple[str, str]], data: Path, select: str, threads: int
) -> None:
    """Measure those (budget, stage) of `keys` that a finished search lacks, and keep them in its folder; first what a
    measured rule of selection needs."""
    name_own_files(config)
    run = read_run(folder)
    if not run.finished:
        raise LabError(f"run = {str(folder)!r}: must be finished before its drops are kept; daas-lab gap prints them")
    rows: list[dict] = []
    lacking = lacking_drops(run, keys, select)
    if not lacking:
        return
    if select == rules.PERTURBATION:
        keep_perturbed_cells(folder, data, [budget for budget, _ in lacking], threads)
        run = read_run(folder)
    splits = search_splits(config, data)
    with prepare(replace(config, device="cpu", threads=threads)):
        stages_of = {budget: tuple(stage for own, stage in lacking if own == budget) for budget, _ in lacking}
        cells = {budget: genotype_after(run, budget=budget, select=select) for budget in stages_of}
        named = {} if select == rules.OWN else {"select": select}
        for network, cut_from_it in supernets_at(folder, stages_of):
            given = network, config, splits.held_out, splits.weights
            # Most often one set of stages: what is the same is measured once.
            for lacking_stages in dict.fromkeys(stages_of[budget] for budget in cut_from_it):
                budgets = [budget for budget in cut_from_it if stages_of[budget] == lacking_stages]
                stages = [stage for stage in lacking_stages if stage != "node"]
                rows += [row | named for row in accuracy_drops(*given, budgets, cells=cells, stages=stages)]
                if "node" in lacking_stages:
                    rows += [row for budget in budgets for row in node_costs(*given, budget)]
    with locked(folder, patience=60):  # another process may have measured something else meanwhile
        both = _with_cuts_of(read_run(folder).gap, rows)
        keep_measured(folder, "gap.json", json.dumps(both, indent=1) + "\n")
