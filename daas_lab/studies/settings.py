"""What a notebook's `parameters` cell, a sweep file or `daas-lab reproduce` may set; the configurations under it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from daas_lab.compose import retrain_config, search_config
from daas_lab.config import PRESETS, RetrainConfig, SearchConfig
from daas_lab.data.sources import Dataset, check_name
from daas_lab.errors import LabError, one_of, refuse, suggestion
from daas_lab.fields import check_fields, number
from daas_lab.methods.lookup import BASELINE, PAPERS, method_class
from daas_lab.methods.protocols import PROTOCOLS
from daas_lab.own_files import expanded
from daas_lab.space.budget import EdgeBudget
from daas_lab.train.distributed import open_device


@dataclass(frozen=True)
class Settings:
    """What a notebook's `parameters` cell may set; papermill's `-p name value` reaches the same names."""

    preset: str = "mini"
    dataset: str = "fashion_mnist"
    seeds: tuple[int, ...] = (0,)
    budget: str = "8/14"
    protocol: str = "authors"
    epochs: int | None = number(at_least=1, default=None)  # of the searches; None: the preset's
    retrain_epochs: int | None = number(at_least=1, default=None)  # of the retrainings; None: the preset's
    runs: Path = Path("runs")
    figures: Path = Path("figures")  # where published pictures go
    data: Path = Path("data")
    publish: bool = False  # pictures go to `figures`, not to <runs>/figures/<preset>
    records: bool = True  # published records stand for runs, and publishing leaves them
    finished_only: bool = False  # of a long study what is finished: no run is begun
    full_size: bool = False  # of beyond_the_gap: measure steps of a network of the paper's size as well
    workers: int = number(at_least=0, at_most=1024, default=0)  # runs side by side; 0: one a core, or one on a GPU
    device: str = "cpu"

    def __post_init__(self):
        if isinstance(self.dataset, Dataset):  # runs are made in other processes, which know it by its name alone
            raise refuse("dataset", str(self.dataset), "a name, folder:PATH, or FILE.py:function that gives the images")
        check_fields(self)
        one_of("preset", self.preset, PRESETS)
        check_name(self.dataset)
        one_of("protocol", self.protocol, PROTOCOLS)
        object.__setattr__(self, "budget", str(EdgeBudget.parse(self.budget)))

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
        given: dict[str, Any] = {name: getattr(self, name) for name in ("preset", "dataset", "device")}
        given |= {"epochs": self.retrain_epochs} | changes
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
    values = dict(given)
    for spec in fields(Settings):
        if spec.name in values and spec.type is Path:
            values[spec.name] = _read_folder(spec.name, values[spec.name])
        elif "None" in str(spec.type) and str(values.get(spec.name)).lower() == "none":  # papermill passes on a text
            values[spec.name] = None
    if "seeds" in values:
        values["seeds"] = _read_seeds(values["seeds"])
    return Settings(**values)


def _read_seeds(value: Any) -> tuple[int, ...]:
    """Seeds from a list, one number, or a text of either, with or without brackets."""
    try:
        values = json.loads(f"[{value.strip().strip('[]()')}]") if isinstance(value, str) else value
        seeds = [values] if isinstance(values, int) else list(values)
        if not seeds or any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) != len(seeds):
            raise ValueError
    except (TypeError, ValueError, RecursionError) as error:
        raise refuse("seeds", value, "different whole numbers of at least 0, e.g. [0, 1, 2]") from error
    return tuple(seeds)


def _read_folder(name: str, value: Any) -> Path:
    if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
        raise refuse(name, value, "the path of a folder")
    path = expanded(value)
    return path if path.is_absolute() else project_folder() / path


def project_folder() -> Path:
    """The nearest folder from here upwards that holds `notebooks/`, whether JupyterLab or papermill started here."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir():
            return folder
    return here
