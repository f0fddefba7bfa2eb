"""Configurations composed from preset, data set, method and the user's own values; what cannot work is refused here."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

from daas_lab.config import PRESETS, RETIRE_AFTER, WITHOUT_METHOD, RetrainConfig, SearchConfig
from daas_lab.data.sources import Dataset, DatasetFacts, canonical, facts_of, short_name
from daas_lab.errors import LabError, one_of, refuse, say_once
from daas_lab.fields import check_text, refuse_unknown, whole
from daas_lab.methods.lookup import PAPERS, method_class
from daas_lab.methods.protocols import PROTOCOLS
from daas_lab.own_files import canonical_own, digest_of, expanded, is_own
from daas_lab.presets import RETRAIN_PRESETS, SEARCH_PRESETS
from daas_lab.space.budget import EdgeBudget, two_edges
from daas_lab.space.cell_space import (
    canonical_operations,
    operations_digest,
    split_operations,
)
from daas_lab.space.cost import check_limits
from daas_lab.space.genotype import Genotype
from daas_lab.space.kept_file import read_cut, source_of
from daas_lab.space.operations import load_operations, own_texts, parse_operations, try_operations
from daas_lab.space.text_forms import load_genotype


def search_config(
    preset: str = "mini",
    dataset: str | Dataset = "fashion_mnist",
    method: str = PAPERS,
    protocol: str = "authors",
    **changes: Any,
) -> SearchConfig:
    """The search of `preset` on `dataset`, with any field changed by keyword. Raises `LabError` naming the field.

    A shortened search raises Adam's learning rate for α and β so that learning rate × steps stays near the paper's
    19,500 × 3e-4 ≈ 5.9, which is what a one-hot softmax needs; `quick`, `mini` and `full` state their own, for the
    epochs that they have.
    """
    one_of("preset", preset, PRESETS)
    one_of("protocol", protocol, PROTOCOLS)
    searcher = method_class(method)
    found = {"numbers", "data_digest", "method_digest", "operations_digest"}
    known = [spec.name for spec in fields(SearchConfig) if spec.name not in found]
    own = {spec.name: spec for spec in fields(searcher)}
    refuse_unknown("search", changes, [*known, *own])
    facts = _facts_of(dataset, changes)
    operations = changes.pop("operations", None) or ""
    parse_operations(operations)
    defaults = {name: spec.default for name, spec in own.items() if spec.default is not MISSING}
    defaults |= searcher.numbers(protocol)
    values = _COMMON | _SEARCH | _shape_of(facts)
    values |= {
        "method_digest": digest_of("method", method) if is_own(method) else "",
        "operations": canonical_operations(operations),
        "operations_digest": operations_digest(operations),
        "learning_rate_min": PROTOCOLS[protocol].learning_rate_min,
    }
    values |= WITHOUT_METHOD | {name: value for name, value in defaults.items() if name in known}
    values |= _at_most(facts.split, SEARCH_PRESETS[preset](facts))
    given = {key: value for key, value in changes.items() if value is not None}
    epochs = whole(given.get("epochs", values["epochs"]), 1)
    settings = searcher.settings(protocol, epochs)
    refuse_unknown(f"search, in settings of method {method},", settings, [*known, "least_travel"])
    least_travel = settings.pop("least_travel", 0.0)
    values |= settings
    values |= {key: value for key, value in given.items() if key in known}
    values["budget"] = given.get("budget", str(two_edges(whole(values["nodes"], 3, 12))))
    values.setdefault("crop_padding", max(1, whole(values["side"], 4) // 8))
    values.setdefault("steps", max(1, (whole(values["weight_images"], 1)) // whole(values["batch_size"], 1)))
    values.setdefault("warmup", 0)
    if "arch_learning_rate" not in given:
        values["arch_learning_rate"] = _architecture_rate(values, epochs, least_travel)
    missing = [name for name, spec in own.items() if name not in defaults and name not in given]
    if missing:
        raise LabError(f"method = {method!r}: {missing[0]} has no default: it must be given")
    numbers = {name: given.get(name, defaults.get(name)) for name in own if name not in known}
    values["numbers"] = tuple(numbers.items())
    name = canonical_own(method) if is_own(method) else method
    config = SearchConfig(preset=preset, dataset=canonical(dataset), method=name, protocol=protocol, **values)
    try_operations(split_operations(config.operations), config.channels // config.partial_channels)
    for text in (config.budget, *config.gap_budgets.split()):
        check_limits(EdgeBudget.parse(text), config.space.operations)
    if config.retire or config.retire_after == RETIRE_AFTER:
        return config
    return replace(config, retire_after=RETIRE_AFTER)  # without effect: no other search


# Adam's learning rate × steps of the paper's search, about how far α can move.
ARCH_TRAVEL = 19_500 * 3e-4
# What all presets share.
_COMMON: dict[str, Any] = {
    "seed": 0,
    "split_seed": 0,
    "learning_rate": 0.025,
    "momentum": 0.9,
    "weight_decay": 3e-4,
    "gradient_clip": 5.0,
    "device": "cpu",
    "threads": 0,
}
_SEARCH: dict[str, Any] = {"nodes": 6, "partial_channels": 1, "arch_weight_decay": 1e-3, "alpha_delay": 0}
_RETRAIN: dict[str, Any] = {"form": "cifar", "drop_path": 0.2, "auxiliary_weight": 0.4, "label_smoothing": 0.0}


def _architecture_rate(values: Mapping[str, Any], epochs: int, least_travel: float) -> float:
    """Adam's learning rate for α and β: the preset's, or that with which they can move as far as the paper's in the
    steps in which all terms train them (α rests longer where `alpha_delay` says so); and `least_travel` at least."""
    active = max(1, epochs - max(whole(values["warmup"], 0), whole(values["hold"], 0))) * whole(values["steps"], 1)
    rate = values.get("arch_learning_rate", float(f"{ARCH_TRAVEL / active:.2g}"))
    return max(rate, float(f"{least_travel / active:.2g}")) if least_travel else rate


def _shape_of(facts: DatasetFacts) -> dict[str, Any]:
    """What a configuration takes over from its data set."""
    return {
        "data_digest": facts.digest,
        "classes": facts.classes,
        "image_channels": facts.image_channels,
        "flip": facts.flips,
    }


def _facts_of(dataset: str | Dataset, changes: Mapping[str, Any]) -> DatasetFacts:
    """The facts of a data set, which no change may contradict; of ImageNet, a folder that is often cut down, fewer
    classes are as good."""
    facts = facts_of(dataset)
    for name in ("image_channels",) if dataset == "imagenet" else ("classes", "image_channels"):
        if changes.get(name) is not None and str(changes[name]) != str(getattr(facts, name)):
            raise refuse(name, changes[name], f"{getattr(facts, name)}, which dataset = {str(dataset)!r} has")
    return facts


def _at_most(split: tuple[int, int, int], preset: dict) -> dict:
    """The preset's numbers; where it asks for more images than there are, or for none in particular, all of them."""
    names = ("weight_images", "architecture_images", "held_out_images")
    if sum(preset.get(name, 0) for name in names) <= sum(split) and names[0] in preset:
        return preset
    return preset | dict(zip(names, split, strict=True))


def retrain_config(
    genotype: Any = None, preset: str = "mini", dataset: str | Dataset = "fashion_mnist", **changes: Any
) -> RetrainConfig:
    """The retraining of `genotype` (a value, a published name or a file), with any field changed by keyword; or, with
    `weights` in its place, of the network in a file of `daas-lab cut`, whose shape is its own."""
    one_of("preset", preset, PRESETS)
    found = {"data_digest", "operations_digest", "weights_digest"}
    refuse_unknown("retrain", changes, [spec.name for spec in fields(RetrainConfig) if spec.name not in found])
    facts = _facts_of(dataset, changes)
    values = _COMMON | _RETRAIN | _shape_of(facts)
    values |= RETRAIN_PRESETS[preset](facts)
    values["crops"] = "resized" if dataset == "imagenet" else "padded"
    values["train_images"] = min(values.get("train_images", facts.train_images), facts.train_images)
    if (changes.get("crops") or values["crops"]) == "resized":  # these have crops of their own, and no cutout
        values |= {"crop_padding": 0, "cutout": 0}
    operations = changes.get("operations") or ""
    check_text("operations", operations)
    load_operations(operations)
    if changes.get("weights"):
        if genotype is not None:
            raise refuse("genotype", genotype, f"left out: weights = {str(changes['weights'])!r} have a cell")
        genotype, shape = _shape_of_cut(changes, dataset, facts)
        values |= shape
        changes = {name: value for name, value in changes.items() if name not in ("weights", "form")}
    values |= {key: value for key, value in changes.items() if value is not None}
    side = whole(values["side"], 4)
    values.setdefault("crop_padding", max(1, side // 8))
    values.setdefault("cutout", side // 2)
    values.setdefault("steps", max(1, whole(values["train_images"], 1) // whole(values["batch_size"], 1)))
    genotype = load_genotype(genotype)
    own = [canonical_own(text) for text in own_texts(genotype)]
    values["operations"] = ",".join(own)
    values["operations_digest"] = ",".join(digest_of("operations", text) for text in own)
    cells = json.dumps(genotype.to_json(), separators=(",", ":"))
    config = RetrainConfig(preset=preset, dataset=canonical(dataset), genotype=cells, **values)
    if not config.weights:  # with which they were tried when they were searched
        try_operations(own, config.channels)
    return config


def _shape_of_cut(
    changes: Mapping[str, Any], dataset: str | Dataset, facts: DatasetFacts
) -> tuple[Genotype, dict[str, Any]]:
    """Cell and fields that a network which was cut brings with it; neither change nor data set may contradict them, but
    images may have another side."""
    path = changes["weights"]
    if not isinstance(path, str | Path):
        raise refuse("weights", path, "a file that daas-lab cut wrote")
    cut, digest, content = read_cut(path)
    names = ("layers", "channels", "classes", "image_channels")
    shape = {"form": "cifar"} | {name: getattr(cut, name) for name in names}
    if same_images := cut.dataset == short_name(canonical(dataset)):  # else it is tested on what it was trained on
        shape["split_seed"] = source_of(content)["config"]["split_seed"]
    for name, value in shape.items():
        if changes.get(name) is not None and str(changes[name]) != str(value):
            raise refuse(name, changes[name], f"{value}, which weights = {str(path)!r} have")
    if (facts.classes, facts.image_channels) != (cut.classes, cut.image_channels):
        allowed = f"one of {cut.classes} classes and {cut.image_channels} channels, as weights = {str(path)!r} have"
        raise refuse("dataset", str(dataset), allowed)
    if not same_images:
        say_once(f"{path}: its weights are from images of {cut.dataset}, not of {dataset}")
    where = {"weights": str(expanded(path).resolve()), "weights_digest": digest}
    return cut.genotype, shape | {"side": cut.side} | where


# --- and taken apart --------------------------------------------------------------------------------------------------


def values_of(config: SearchConfig | RetrainConfig) -> dict[str, Any]:
    """Every field by name, the numbers of a search's method among them."""
    values = asdict(config)
    return values | dict(values.pop("numbers", ()))


def options_of(config: SearchConfig | RetrainConfig) -> list[str]:
    """The options of `daas-lab search`, or `retrain`, that make exactly this configuration: names first, then what
    differs. What it names of one's own is executed, as it is wherever a configuration is composed."""
    if isinstance(config, SearchConfig):
        make, last = search_config, ("method", "protocol")
    else:
        make, last = retrain_config, ("weights",) if config.weights else ("genotype",)
    names = {name: getattr(config, name) for name in ("preset", "dataset", *last)}
    wanted = values_of(config)
    changes: dict[str, Any] = {}
    while (made := values_of(make(**names, **changes))) != wanted:
        # A field that was filled in from another one may differ only after that one is set.
        differing = {name: value for name, value in wanted.items() if made.get(name) != value}
        if differing.keys() <= changes.keys():
            raise LabError(f"no command makes {', '.join(differing)} what they are")
        changes |= differing
    options = {name: "from" if name == "weights" else name for name in names}
    named = [word for name, value in names.items() for word in (f"--{options[name]}", value)]
    return named + [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
