"""Give me this run: reuse it if it is finished, resume it if it was begun, make it if it is missing.

Notebooks state their parameters, ask for runs by configuration and draw what comes back. "The same run" is decided by
`config.config_hash`. Runs are made in processes of their own, several side by side.
"""

import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from daas_lab.config import (
    PRESETS,
    RetrainConfig,
    SearchConfig,
    config_hash,
    retrain_config,
    search_config,
)
from daas_lab.data.batches import check_available
from daas_lab.data.sources import short_name
from daas_lab.errors import LabError, one_of, refuse, suggestion
from daas_lab.methods.lookup import BASELINE, PAPERS, method_class
from daas_lab.own_files import own_name
from daas_lab.runs.folder import Run, epochs_done, read_finished, read_run, write_atomically, writer
from daas_lab.runs.records import read_record, write_record
from daas_lab.space.budget import EdgeBudget
from daas_lab.train.discretize import accuracy_drops, node_costs
from daas_lab.train.distributed import open_device
from daas_lab.train.loop import prepare, progress_bar
from daas_lab.train.retrain import retrain
from daas_lab.train.search import load_supernet, search
from daas_lab.train.splits import search_splits

# --- a notebook's parameters ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What a notebook's `parameters` cell may set; papermill's `-p name value` reaches the same names."""

    preset: str = "mini"
    dataset: str = "fashion_mnist"
    seeds: tuple[int, ...] = (0,)
    budget: str = "8/14"
    protocol: str = "authors"
    epochs: int | None = None  # of the searches; None: the preset's
    retrain_epochs: int | None = None  # of the retrainings; None: the preset's
    runs: Path = Path("runs")
    figures: Path = Path("figures")  # where published pictures go
    data: Path = Path("data")
    publish: bool = False  # pictures go to `figures`, not to <runs>/figures/<preset>
    records: bool = True  # published records stand for runs, and publishing leaves them
    workers: int = 0  # runs side by side; 0: one a core, or one on a GPU
    device: str = "cpu"

    @property
    def folder(self) -> Path:
        """Where this notebook's pictures and tables go."""
        return self.figures if self.publish else self.runs / "figures" / self.preset

    def search(self, method: str, seed: int, **changes: Any) -> SearchConfig:
        """The configuration of a search under these settings."""
        given = {name: getattr(self, name) for name in ("epochs", "budget", "protocol", "device")} | changes
        if not method_class(method).asks_for_budget:  # one search serves them all
            given["budget"] = None
        return search_config(self.preset, self.dataset, method, **given, seed=seed)

    def retraining(self, genotype: Any, seed: int, **changes: Any) -> RetrainConfig:
        """The configuration of a retraining under these settings."""
        given = {"preset": self.preset, "dataset": self.dataset, "device": self.device, "epochs": self.retrain_epochs}
        given |= changes
        return retrain_config(genotype, **given, seed=seed)


def read_settings(namespace: dict[str, Any]) -> Settings:
    """The settings in a notebook's `globals()`, checked before anything is trained. Data is only asked for when a run
    has to be made: what comes from records needs none.

    Call it right after the parameters cell: a name there that is no setting (a misspelt `-p epoch 5`) is refused, and
    texts such as "[0, 1]" are read as what they write.
    """
    known = {spec.name for spec in fields(Settings)}
    given = {name: namespace[name] for name in known if name in namespace}
    if "_settings_read" not in namespace:  # the cell may be run again later, among the notebook's own variables
        for name, value in namespace.items():
            simple = isinstance(value, (str, int, float, bool, list, tuple, dict)) or value is None
            # Constants of a notebook are in capitals; parameters never are.
            if (
                simple
                and name not in known
                and not name.startswith("_")
                and name not in ("In", "Out")
                and not name.isupper()
            ):
                names = ", ".join(sorted(known))
                raise LabError(f"unknown parameter {name} = {value!r}{suggestion(name, known)}; known: {names}")
        namespace["_settings_read"] = True
    settings = parse_settings(given)
    for method in (BASELINE, PAPERS):
        settings.search(method, settings.seeds[0])
    open_device(settings.device)
    return settings


def parse_settings(given: Mapping[str, Any]) -> Settings:
    """Settings from what users write, each value refused by name; whether data and device are there is not asked."""
    settings = Settings(**{name: _read_setting(name, value) for name, value in given.items()})
    one_of("preset", settings.preset, PRESETS)
    return settings


def _read_setting(name: str, value: Any) -> Any:
    if name == "seeds":
        try:
            values = json.loads(value) if isinstance(value, str) else value
            seeds = [values] if isinstance(values, int) else list(values)
            if not seeds or any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) != len(seeds):
                raise ValueError
        except (TypeError, ValueError) as error:
            raise refuse("seeds", value, "different whole numbers of at least 0, e.g. [0, 1, 2]") from error
        return tuple(seeds)
    if name in ("runs", "figures", "data"):
        if not isinstance(value, (str, Path)) or not str(value):
            raise refuse(name, value, "the path of a folder")
        path = Path(value).expanduser()
        return path if path.is_absolute() else project_folder() / path
    if name == "workers":
        if type(value) is not int or value < 0:
            raise refuse("workers", value, "a whole number of at least 0")
    elif name in ("publish", "records") and not isinstance(value, bool):
        raise refuse(name, value, "true or false")
    return value


def project_folder() -> Path:
    """The nearest folder from here upwards that holds `notebooks/`, whether JupyterLab or papermill started here."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir():
            return folder
    return here


# --- runs -------------------------------------------------------------------------------------------------------------


def run_name(config: SearchConfig | RetrainConfig) -> str:
    """The name of a run's folder: readable, and the same exactly for the same configuration."""
    kind = own_name(config.method) if isinstance(config, SearchConfig) else "retrain"
    return f"{kind}-{short_name(config.dataset)}-s{config.seed}-{config_hash(config)}"


def make_runs(configs: Sequence[SearchConfig | RetrainConfig], settings: Settings) -> list[Run]:
    """The finished run of every configuration, in their order; what is missing is made first, side by side.

    A record in `settings.figures` counts as a finished run, without its weights. A bar counts epochs. When a run fails
    the others are stopped where they are, to be resumed, and its error is raised. Where images are missing that one of
    them needs, none is started.
    """
    runs = {config: find_run(config, settings) for config in configs}
    for run in filter(None, runs.values()):
        _publish(run, settings)
    missing = [config for config, run in runs.items() if run is None]
    check_data(missing, settings)
    tasks = [(make_run, (config, settings)) for config in missing]
    folders = [run_folder(config, settings) for config in missing]

    bar = progress_bar(sum(config.epochs for config in missing), disable=not missing)
    _side_by_side(tasks, settings, bar, lambda ended: sum(map(epochs_done, folders)))
    return [runs[config] or find_run(config, settings) for config in configs]


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
    if run := read_finished(folder):
        return run
    return read_record(record) if settings.records and record.is_file() else None


def _publish(run: Run, settings: Settings) -> None:
    if settings.publish and settings.records and run.folder is not None:
        write_record(run, _record(run.config, settings))


def _side_by_side(tasks: Sequence[tuple], settings: Settings, bar: tqdm, done: Callable[[int], int]) -> None:
    """Run the tasks (function, arguments) in processes of their own; `done(ended tasks)`: how far `bar` has come."""
    cores = os.cpu_count() if settings.device == "cpu" else 1
    workers = min(settings.workers or cores or 1, len(tasks))
    # Side by side a thread each: two processes that both use every core slow each other down.
    threads = 1 if workers > 1 else 0
    if not tasks:
        return
    # The server imports torch once and forks from there: a process starts at once, and none inherits our threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["daas_lab.studies.make", *(["sklearn.datasets"] * (settings.dataset == "digits"))])

    def in_own_process(function: Callable, *arguments: Any) -> None:
        with ProcessPoolExecutor(1, mp_context=context) as process:
            process.submit(function, *arguments).result()

    executor = ThreadPoolExecutor(workers)
    started = [executor.submit(in_own_process, function, *arguments, threads) for function, arguments in tasks]
    pending = set(started)
    try:
        with bar:
            while pending:
                finished, pending = wait(pending, timeout=1, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                bar.update(done(len(tasks) - len(pending)) - bar.n)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in started):
            for child in multiprocessing.active_children():
                child.terminate()
            time.sleep(0.1)


def make_run(config: SearchConfig | RetrainConfig, settings: Settings, threads: int) -> None:
    """Make a run; where another process is already at it (a restarted notebook's earlier workers), wait for that.

    Its record is published here, not after the last of all runs: what ended stays, whatever becomes of the others.
    """
    folder = run_folder(config, settings)
    while writer(folder) is not None:
        time.sleep(1)
    train = search if isinstance(config, SearchConfig) else retrain
    train(replace(config, threads=threads), folder, settings.data, progress=False)
    _publish(read_run(folder), settings)


def drops(
    runs: Sequence[Run],
    budgets: Sequence[str] | Callable[[Run], Sequence[str]],
    settings: Settings,
    stages: Sequence[str] = ("both",),
) -> list[dict]:
    """Accuracy-drop rows of searches for `budgets` (or those that it gives for a run), every combination of edge weight
    and batch-norm, with `names_of` the search beside them and `drop` = before − after. `stages`: those of
    `discretize.STAGES`, and `node` for the rows of `discretize.node_costs`.

    What is missing is measured side by side and kept in the run's folder; a record that lacks a budget is refused, for
    it has no weights to measure with.
    """
    wanted = [
        [
            (str(EdgeBudget.parse(budget)), stage)
            for budget in (budgets(run) if callable(budgets) else budgets)
            for stage in stages
        ]
        for run in runs
    ]
    missing = {}
    for run, keys in zip(runs, wanted, strict=True):
        lacking = lacking_drops(run, keys)
        if lacking and run.folder is None:
            path, texts = _record(run.config, settings), ", ".join(f"{budget} ({stage})" for budget, stage in lacking)
            raise LabError(f"{path} has no drops at {texts}; without the record, the run is made again")
        if lacking:
            missing[run.folder] = lacking
    check_data([run.config for run in runs if run.folder in missing], settings)
    tasks = [(measure_drops, (folder, keys, settings.data)) for folder, keys in missing.items()]
    _side_by_side(tasks, settings, progress_bar(len(tasks), unit="gap", disable=not tasks), lambda ended: ended)
    rows = []
    for run, keys in zip(runs, wanted, strict=True):
        if run.folder in missing:
            run = read_run(run.folder)
            _publish(run, settings)
        measured = [row for row in run.gap if (row["budget"], row["stage"]) in keys]
        rows += [names_of(run) | row | {"drop": row["before"] - row["after"]} for row in measured]
    return rows


def names_of(search: Run) -> dict:
    """Which search a row is of: `run`, by which rows are joined, `protocol`, `method` and `seed`."""
    config = search.config
    return {"run": run_name(config)} | {name: getattr(config, name) for name in ("protocol", "method", "seed")}


def lacking_drops(run: Run, keys: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those (budget, stage) of `keys` of which the run has no drops."""
    measured = {(row["budget"], row["stage"]) for row in run.gap}
    return [key for key in keys if key not in measured]


def measure_drops(folder: Path, keys: Sequence[tuple[str, str]], data: Path, threads: int) -> None:
    """Measure those (budget, stage) of `keys` that the search in `folder` lacks, and keep them there."""
    run = read_run(folder)
    rows, lacking = run.gap, lacking_drops(run, keys)
    if not lacking:
        return
    network, config = load_supernet(folder)
    splits = search_splits(config, data)
    with prepare(replace(config, threads=threads)):
        stages_of = {budget: tuple(stage for own, stage in lacking if own == budget) for budget, _ in lacking}
        given = network, config, splits.held_out, splits.weights
        for lacking_stages in dict.fromkeys(stages_of.values()):  # most often one: what is the same is measured once
            budgets = [budget for budget, own in stages_of.items() if own == lacking_stages]
            rows += accuracy_drops(*given, budgets, stages=[stage for stage in lacking_stages if stage != "node"])
            if "node" in lacking_stages:
                rows += [row for budget in budgets for row in node_costs(*given, budget)]
    write_atomically(folder / "gap.json", json.dumps(rows, indent=1) + "\n")


# --- all notebooks ----------------------------------------------------------------------------------------------------


def reproduce(settings: Settings, names: Sequence[str] = ()) -> list[dict]:
    """Run the notebooks headless one after the other; rows of name, seconds and result. Finished runs are reused."""
    folder = project_folder() / "notebooks"
    notebooks = sorted(folder.glob("*.ipynb"))
    if not notebooks:
        raise refuse("notebooks", str(folder), "a folder that holds them")
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


def command_text(stem: str, settings: Settings) -> str:
    """The command that makes a notebook's results again, for their provenance."""
    output = f"runs/notebooks/{settings.preset}/{stem}.ipynb"
    options = " ".join(f"-p {name} '{text}'" for name, text in _options(settings) if name not in _PATHS)
    return f"papermill notebooks/{stem}.ipynb {output} {options}".rstrip()


_PATHS = ("runs", "figures", "data")


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
