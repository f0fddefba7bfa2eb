"""A sweep file: which runs, and what each may use.

    preset: mini                  # as in a notebook, and so: dataset, protocol, seeds, runs, data, device
    seeds: [0, 1, 2]
    search:                       # every combination of the lists; a list of such groups is their union
      method: [darts, da2s]
      budget: [8/14, 4/14]
    retrain:                      # the same for the retrainings of every cell; left out, there are none
      epochs: 10
    cpus: 1                       # of one process; gpus: 0, a share of one, or 1, as where the device is cuda
    processes: 2                  # of one retraining, which has as many times cpus and gpus; gpus: 8 is 8 of 1 each
    notebook:                     # executed as they are: `sweep_notebooks`
      path: notebooks/table_2_lambda_c.ipynb

What is left out is as in a notebook that names none of it.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from daas_lab.config import RetrainConfig, SearchConfig, check_labels
from daas_lab.errors import LabError, imported, refuse, suggestion
from daas_lab.fields import coerce, refuse_unknown
from daas_lab.methods.lookup import PAPERS, method_class
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cost import check_limits
from daas_lab.studies.make import run_name
from daas_lab.studies.settings import Settings, parse_settings
from daas_lab.studies.sweep_notebooks import NotebookRun, read_notebooks

SETTINGS = ("preset", "dataset", "protocol", "seeds", "runs", "data", "device")
KEYS = (*SETTINGS, "search", "retrain", "notebook", "cpus", "gpus", "processes")


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read and checked."""

    settings: Settings
    searches: dict[SearchConfig, list[str]]  # and the budgets that each is cut to
    retrainings: list[dict[str, Any]]  # changes to the preset's, one after the other for every cell
    named: tuple[str, ...]  # the fields of a search that the file names
    cpus: float  # of one process
    gpus: float
    processes: int  # of one retraining
    notebooks: list[NotebookRun]


def read_sweep(path: str | Path) -> Sweep:
    """Read a sweep file. What is wrong in it is refused by name, before anything is trained."""
    document = _read_yaml(Path(path))
    for key in document:
        if key not in KEYS:
            raise LabError(f"{path}: unknown key {key!r}{suggestion(key, KEYS)}; known: {', '.join(KEYS)}")
    # Without published records: they have no weights, and drops may be missing.
    given = {"runs": "runs", "data": "data", "records": False}
    settings = parse_settings(given | {key: document[key] for key in SETTINGS if key in document})

    listed = document.get("search")
    groups: list[Any] = listed if isinstance(listed, list) and listed else [listed]
    if "notebook" in document and not document.keys() & {"search", "retrain"}:
        groups = []
    cpus, gpus, processes = _processors(document, settings.device)
    searches = _searches(groups, settings)
    retrainings = _retrainings(document, settings, processes)
    notebooks = []
    if "notebook" in document:
        top = {name: getattr(settings, name) for name in SETTINGS if name in document}
        top |= {"seeds": list(settings.seeds)} if "seeds" in document else {}
        top |= {"runs": str(settings.runs), "data": str(settings.data), "workers": max(1, int(cpus))}
        notebooks = read_notebooks(document["notebook"], top, Path(path).parent)

    return Sweep(
        settings,
        searches,
        retrainings,
        named=tuple(dict.fromkeys(["method", "budget", *(name for group in groups for name in group)])),
        cpus=cpus,
        gpus=gpus,
        processes=processes,
        notebooks=notebooks,
    )


def _processors(document: Mapping[str, Any], device: str) -> tuple[float, float, int]:
    """CPUs and GPUs of one process, and processes of one retraining."""
    cpus = _amount("cpus", document.get("cpus", 1), above=0)
    gpus = _amount("gpus", document.get("gpus", int(device.startswith("cuda"))))
    several = int(gpus) if gpus > 1 else 1  # a process has one
    processes = coerce("processes", int, document.get("processes", several), {"at_least": 1, "at_most": 1024})
    gpus = min(gpus, 1)
    for name, amount in (("cpus", cpus), ("gpus", gpus)):
        if processes > 1 and amount % 1:
            raise refuse(name, amount, f"a whole number: each of the {processes} processes has its own")
    return cpus, gpus, processes


def _searches(groups: list[Any], settings: Settings) -> dict[SearchConfig, list[str]]:
    """The searches of all groups, each with the budgets that it is cut to."""
    searches: dict[SearchConfig, list[str]] = {}
    named: dict[str, SearchConfig] = {}
    for group in groups:
        _check_group("search", group, SearchConfig)
        budgets = [str(EdgeBudget.parse(text)) for text in _as_list(group.get("budget", settings.budget))]
        for values, seed in itertools.product(_combinations(group), settings.seeds):
            config = settings.search(**{"method": PAPERS} | values, seed=seed)
            one_for_all = "budget" in group and not config.searcher.asks_for_budget
            cuts = budgets if one_for_all else [config.budget]
            for text in cuts:
                budget = EdgeBudget.parse(text)
                budget.check(config.space)
                check_limits(budget, config.space.operations)
            if named.setdefault(run_name(config), config) != config:
                raise refuse("search", dict(group), f"one search for each run: {run_name(config)} is asked for twice")
            searches[config] = list(dict.fromkeys([*searches.get(config, []), *cuts]))
    check_labels(searches)
    return searches


def _retrainings(document: Mapping[str, Any], settings: Settings, processes: int) -> list[dict[str, Any]]:
    """The changes to the preset's retraining that every cell is trained with, one after the other."""
    if "retrain" not in document:
        return []
    group = {} if document["retrain"] is None else document["retrain"]
    _check_group("retrain", group, RetrainConfig)
    found = list(_combinations(group))
    for changes in found:
        parts = settings.retraining("DARTS_V2", settings.seeds[0], **changes).micro_batches
        if parts % processes:
            raise refuse("retrain: micro_batches", parts, f"a multiple of the {processes} processes")
    return found


def _read_yaml(path: Path) -> dict:
    yaml = imported("yaml", "cluster")
    try:
        text = path.read_text(encoding="utf-8")
        root, document = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except OSError as error:
        raise refuse("sweep", str(path), f"a file that can be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no text, or a day of no calendar
        raise LabError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise LabError(f"{path}: must hold keys and values; known: {', '.join(KEYS)}")
    if (twice := _twice(root)) is not None:
        raise LabError(f"{path}: key {twice!r} stands twice in one place; each once, with a list of values if need be")
    return document


def _twice(root: Any) -> str | None:
    """A key that stands twice in one mapping of a composed YAML document: the last would win in silence."""
    nodes, seen = [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen or not isinstance(getattr(node, "value", None), list):
            continue
        seen.add(id(node))  # an alias may lead back
        pairs = node.value if node.id == "mapping" else [(None, item) for item in node.value]
        keys = [key.value for key, _ in pairs if key is not None]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            return str(repeated[0])
        nodes += [value for _, value in pairs]
    return None


def _check_group(key: str, group: Any, config_class: type) -> None:
    """Raise unless `group` maps names of fields to values, and none that has its place at the top of the file."""
    if not isinstance(group, Mapping):
        raise refuse(key, group, "fields, each with a value or a list of values")
    elsewhere = {"seed": "given as seeds, at the top of the file", "genotype": "left out: the cells are the searches'"}
    elsewhere |= {name: f"given as {name}, at the top of the file" for name in SETTINGS}
    for name, value in group.items():
        if name in elsewhere:
            raise refuse(f"{key}: {name}", value, elsewhere[name])
        if value == [] or any(one is None or isinstance(one, (list, Mapping)) for one in _as_list(value)):
            raise refuse(f"{key}: {name}", value, "a value or a list of values")
    known = [spec.name for spec in fields(config_class)]
    if config_class is SearchConfig:
        for method in _as_list(group.get("method", PAPERS)):
            known += [spec.name for spec in fields(method_class(method))]
    refuse_unknown(key, group, known)


def _combinations(group: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*map(_as_list, group.values())):
        yield dict(zip(group, values, strict=True))


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _amount(name: str, value: Any, above: float | None = None) -> float:
    """A number of processors: Ray gives a share of one, or several whole ones."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < 10**6 or value == above or (value > 1 and value % 1):
        raise refuse(name, value, f"a whole number or less than 1, {'above' if above == 0 else 'at least'} 0")
    return value
