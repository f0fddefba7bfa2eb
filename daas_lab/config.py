"""Configurations: frozen, validated when made, complete (every number that a run needs is in it).

`search_config` and `retrain_config` compose preset, data set, method and the user's own values; whatever cannot work is
refused here, before any long work starts. `identity.config_hash` covers exactly the fields that change a result.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from daas_lab.data.sources import check_name
from daas_lab.errors import LabError, one_of, refuse
from daas_lab.fields import check_fields, number, plain
from daas_lab.methods import schedules
from daas_lab.methods.lookup import recorded_class
from daas_lab.methods.method import Method, Moment
from daas_lab.methods.protocols import PROTOCOLS
from daas_lab.own_files import digest_at_hand, is_own, load_own, named_own, own_name
from daas_lab.presets import SEARCH_PRESETS
from daas_lab.space.budget import EdgeBudget, every_edge, split_budgets
from daas_lab.space.cell_space import (
    Space,
    operation_name,
    split_operations,
)
from daas_lab.space.genotype import Genotype
from daas_lab.space.operations import load_operations, named_operations
from daas_lab.space.skeleton import FORMS, check_side

PRESETS = tuple(SEARCH_PRESETS)
RETIRE_AFTER = 2
EDGE_WEIGHTS = ("one", "learned", "renormalised")  # of the edges that a discretization keeps (discretize.py)


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """One architecture search. Made by `search_config`, which fills in preset, data set and protocol."""

    # What is searched.
    preset: str  # the set of numbers that this configuration started from; not part of the hash
    dataset: str  # a name, folder:PATH or own:NAME
    data_digest: str = ""  # of the names and sizes of a folder's files, or of one's own images
    method: str  # one of METHODS, or FILE.py:Class
    method_digest: str = ""  # of the file of one's own
    numbers: tuple[tuple[str, Any], ...] = ()  # the method's that are no fields of this class: (name, value), …
    protocol: str  # paper or authors
    operations: str = ""  # the candidates: names and FILE.py:function with commas between them; "": the paper's seven
    operations_digest: str = ""  # of the files of one's own
    budget: str  # edges to keep, in the text form of EdgeBudget; a limit of cost is for the cut alone
    seed: int = number(at_least=0)
    # Images.
    side: int = number(at_least=4, at_most=4096)  # images are scaled or padded to side × side pixels
    classes: int = number(at_least=2)
    image_channels: int = number(at_least=1)
    weight_images: int = number(at_least=1)  # images on which the network weights are trained
    architecture_images: int = number(at_least=1)  # images on which α and β are trained
    held_out_images: int = number(at_least=0)  # images for the accuracies; 0: the architecture's
    split_seed: int = number(at_least=0, at_most=2**63 - 1)  # of the split: one for all, so that test images stay so
    crop_padding: int = number(at_least=0)  # pixels of padding before the random crop
    flip: bool  # random horizontal flips
    # Super-network.
    layers: int = number(at_least=3, at_most=1000)  # cells; of two, both would be reductions
    channels: int = number(at_least=2, at_most=10_000)  # initial channels C; the stem has 3 C
    nodes: int = number(at_least=3, at_most=12)  # nodes of a cell, two inputs included
    partial_channels: int = number(at_least=1)  # K: 1/K of the channels pass through the operations
    # Training.
    epochs: int = number(at_least=1, at_most=1_000_000)
    steps: int = number(at_least=1, at_most=1_000_000_000)  # steps an epoch
    batch_size: int = number(at_least=2)
    learning_rate: float = number(above=0)  # of the weights, at the start of the cosine
    learning_rate_min: float = number(at_least=0)  # and at its end
    momentum: float = number(at_least=0, at_most=1)
    weight_decay: float = number(at_least=0)
    gradient_clip: float = number(above=0)  # largest norm of the weights' gradient
    arch_learning_rate: float = number(above=0)  # Adam's, for α and β; times steps it bounds how far α can move
    arch_weight_decay: float = number(at_least=0)
    alpha_delay: int = number(at_least=0)  # epochs in which α rests
    warmup: int = number(at_least=0, default=0)  # epochs in which α and β rest and only the weights are trained
    hold: int = number(at_least=0, default=0)  # epochs before λ, k and the temperature begin to move
    temperature: float = number(above=0, default=1.0)  # T of softmax(α / T) at the end
    # A candidate whose weight a · b has stayed under this retires, and is not computed any more; 0: never.
    retire: float = number(at_least=0, at_most=0.1, default=0.0)
    retire_after: int = number(
        at_least=1, at_most=1000, default=RETIRE_AFTER
    )  # epochs in a row: one may be a step too far
    lambda_c: str  # control function of the whole regulariser
    lambda_1: str  # of the operation loss
    lambda_2: str  # of the edge loss
    # How it is computed.
    precision: str = "float32"  # of the network's operations, by autocast: float32, bfloat16 or float16
    micro_batches: int = number(at_least=1, default=1)  # parts in which a batch passes, each with its own statistics
    sync_batch_norm: bool = False  # of retrainings only
    # What is measured beside the search without changing it, and where it runs: none of these is part of the hash.
    gap_every: int = number(at_least=0, default=0)  # every so many epochs: the accuracy if discretized now; 0: never
    gap_budgets: str = ""  # for these budgets, with spaces between them; empty: the search's own
    gap_edge_weight: str = "learned"  # and with these weights of the kept edges
    device: str
    threads: int = number(at_least=0, at_most=1024)  # 0: torch's default
    tf32: bool = True  # TF32 in float32 products, on GPUs that have it
    deterministic: bool = False  # ask CUDA for the same bits every time; slower
    checkpointed: bool = False  # keep what enters each cell, and run it again in the backward pass: less memory, slower
    compile: bool = False  # the network by torch.compile

    def __post_init__(self):
        one_of("preset", self.preset, PRESETS)
        check_name(self.dataset)
        one_of("protocol", self.protocol, PROTOCOLS)
        one_of("gap_edge_weight", self.gap_edge_weight, EDGE_WEIGHTS)
        for name in LAMBDAS:
            schedules.parse(getattr(self, name), name)
        object.__setattr__(self, "numbers", tuple(sorted(dict(self.numbers).items())))
        object.__setattr__(self, "budget", str(EdgeBudget.parse(self.budget)))
        split_operations(self.operations)
        check_fields(self)
        check_side(self.side)
        budget = self._check_budget("budget", self.edge_budget)
        if budget.unlimited == replace(every_edge(self.nodes), operations=len(self.space.choices)):
            raise refuse("budget", self.budget, "one that leaves something out: it keeps every operation of every edge")
        gap_budgets = [self._check_budget("gap_budgets", text) for text in split_budgets(self.gap_budgets)]
        object.__setattr__(self, "gap_budgets", " ".join(map(str, gap_budgets)))
        for name in ("alpha_delay", "warmup", "hold"):
            if getattr(self, name) >= self.epochs:
                raise refuse(name, getattr(self, name), f"less than epochs = {self.epochs}, for α to move at all")
        if self.crop_padding > self.side:
            raise refuse("crop_padding", self.crop_padding, f"at most side = {self.side}")
        if self.channels % self.partial_channels:
            raise refuse("channels", self.channels, f"divisible by partial_channels = {self.partial_channels}")
        for name in ("weight_images", "architecture_images"):
            if self.batch_size > getattr(self, name):
                raise refuse("batch_size", self.batch_size, f"at most {name} = {getattr(self, name)}")
        _check_computation(self)
        if self.sync_batch_norm:  # torch converts layers, and those of the mixed edges compute their own statistics
            raise refuse("sync_batch_norm", True, "false for a search; a retraining can")
        if self.method_digest and not is_named(self):
            # Of a run's folder: nothing is executed to check the numbers of a method of its own.
            self._freeze_numbers(dict(self.numbers))
        else:
            self._check_method()

    def _check_method(self) -> None:
        declared = {spec.name for spec in fields(self.method_class)}
        for name, without in WITHOUT_METHOD.items():
            # A control function without effect makes no other search, all else has to be as it is without.
            off = name in LAMBDAS[1:] and self.lambda_c == schedules.ZERO
            if name in LAMBDAS and (name not in declared or off):
                object.__setattr__(self, name, without)
            elif name not in declared and getattr(self, name) != without:
                raise refuse(name, getattr(self, name), f"{without} for method {self.method}")
        method = _searcher.__wrapped__(self)  # before its numbers are checked they may be anything, lists too
        self._freeze_numbers({name: getattr(method, name) for name in dict(self.numbers)})
        method.check(self)
        one_of(f"edge_weight of method {self.method}", method.edge_weight, EDGE_WEIGHTS)
        travel = self.arch_learning_rate * self.steps * (self.epochs - max(self.alpha_delay, self.warmup))
        if method.trains and travel < method.initial_noise:
            why = f"α, which starts from noise of {method.initial_noise:g}, can move by {travel:.2g} in this search"
            raise refuse("arch_learning_rate", self.arch_learning_rate, f"larger, or the noise decides: {why}")

    def _freeze_numbers(self, numbers: dict[str, Any]) -> None:
        frozen = ((name, plain(name, value)) for name, value in sorted(numbers.items()))
        object.__setattr__(self, "numbers", tuple(frozen))

    def _check_budget(self, name: str, text: str | EdgeBudget) -> EdgeBudget:
        try:
            budget = EdgeBudget.parse(text)
            budget.check(self.space)
        except LabError as error:
            raise error if name == "budget" else LabError(f"{name}: {error}") from None
        return budget

    @property
    def edge_budget(self) -> EdgeBudget:
        """The budget as a value."""
        return EdgeBudget.parse(self.budget)

    def gap_budgets_of(self, epoch: int) -> list[str]:
        """Budgets for which the gap is measured after `epoch`: those at which the search stops, and every `gap_every`
        epochs, and after the last, `gap_budgets`."""
        chosen = self.gap_every and (epoch % self.gap_every == 0 or epoch == self.epochs)
        stopped = [budget for budget, stop in self.stops.items() if stop == epoch]
        return list(dict.fromkeys([*stopped, *((self.gap_budgets.split() or [self.budget]) if chosen else [])]))

    def epoch_of(self, budget: str | EdgeBudget) -> int:
        """The epoch after which the search is cut to `budget`: the last one, unless it stops there earlier."""
        return self.stops.get(str(EdgeBudget.parse(budget).unlimited), self.epochs)

    @property
    def stops(self) -> dict[str, int]:
        """`Method.stops` of this search."""
        return self.searcher.stops(self.epochs, self.space)

    @property
    def method_class(self) -> type[Method]:
        """The class of the method; `LabError` where it is of a file that was not named in this process."""
        return recorded_class(self.method, self.method_digest)

    @property
    def label(self) -> str:
        """What rows and run folders call the method: its name, or the class's of one's own."""
        return own_name(self.method)

    @property
    def searcher(self) -> Method:
        """The method with its numbers."""
        return _searcher(self)

    @property
    def space(self) -> Space:
        """What is searched."""
        return Space(self.nodes, tuple(map(operation_name, split_operations(self.operations))))

    def moment(self, epoch: int | None = None, **changes: Any) -> Moment:
        """After `epoch` (default: the last one)."""
        values: dict[str, Any] = {"seed": self.seed, "space": self.space} | changes
        return Moment(self.epochs if epoch is None else epoch, self.epochs, **values)


@lru_cache(maxsize=1024)
def _searcher(config: SearchConfig) -> Method:
    declared = {spec.name for spec in fields(config.method_class)}
    shared = {spec.name: getattr(config, spec.name) for spec in fields(config) if spec.name in declared}
    if "budget" in shared:
        shared["budget"] = str(config.edge_budget.unlimited)
    return config.method_class(**shared | dict(config.numbers))


def is_named(config: SearchConfig) -> bool:
    """Whether the method is at hand: one of this package, or of a file that was named in this process."""
    try:
        return bool(config.method_class)
    except LabError:
        return False


def name_own_files(config: "SearchConfig | RetrainConfig") -> None:
    """Execute the files of one's own that a configuration names, in a process that was started to work on it. Whoever
    made the configuration has named them; a file that has changed since is refused where it has to be read."""
    if is_own(config.dataset):
        load_own("dataset", config.dataset, digest_at_hand("dataset", config.dataset))
    if isinstance(config, SearchConfig) and config.method_digest:
        load_own("method", config.method, config.method_digest)
    load_operations(config.operations, config.operations_digest)


def check_labels(configs: Iterable["SearchConfig | RetrainConfig"]) -> None:
    """Raise where two methods of one's own have one name: rows and run folders would call both the same."""
    known: dict[str, SearchConfig] = {}
    for config in (config for config in configs if isinstance(config, SearchConfig)):
        first = known.setdefault(config.label, config)
        if first.method_digest != config.method_digest:
            raise refuse(
                "method", config.method, f"of another name than that of {first.method}: rows call both the same"
            )


def check_named(config: "SearchConfig | RetrainConfig") -> None:
    """Raise unless all code of one's own that a configuration names was named in this process; nothing is executed."""
    named_operations(config.operations, config.operations_digest)
    if isinstance(config, SearchConfig) and config.method_digest:
        named_own("method", config.method, config.method_digest)
    if is_own(config.dataset):
        named_own("dataset", config.dataset, digest_at_hand("dataset", config.dataset))


# Fields that only some methods have a use for → their value for all others.
WITHOUT_METHOD = {"lambda_c": "const", "lambda_1": "const", "lambda_2": "const", "hold": 0, "temperature": 1.0}


@dataclass(frozen=True, kw_only=True)
class RetrainConfig:
    """One training of a derived network, from scratch or from weights that were kept. Made by `retrain_config`."""

    preset: str  # not part of the hash
    dataset: str  # a name, folder:PATH or own:NAME
    data_digest: str = ""  # of the names and sizes of a folder's files, or of one's own images
    genotype: str  # the cell as compact JSON
    operations: str = ""  # the cell's operations of one's own: FILE.py:function with commas between them
    operations_digest: str = ""  # of their files
    weights: str = ""  # the file of a network that was cut, with which training begins; "": from scratch
    weights_digest: str = ""  # of its content
    seed: int = number(at_least=0)
    # Images: all that are not test images, or the first `train_images` of them.
    side: int = number(at_least=4, at_most=4096)
    classes: int = number(at_least=2)
    image_channels: int = number(at_least=1)
    train_images: int = number(at_least=1)
    split_seed: int = number(at_least=0, at_most=2**63 - 1)
    crop_padding: int = number(at_least=0)
    flip: bool
    cutout: int = number(at_least=0)  # side of the square that is blanked; 0: none
    crops: str = "padded"  # of images in memory; resized: of files read at every use, their colours jittered
    # Derived network.
    form: str  # cifar or imagenet
    layers: int = number(at_least=3, at_most=1000)
    channels: int = number(at_least=2, at_most=10_000)
    drop_path: float = number(at_least=0, at_most=0.9)  # probability towards which it rises linearly from 0
    auxiliary_weight: float = number(at_least=0)  # of the auxiliary head's loss; 0: no head
    # Training.
    epochs: int = number(at_least=1, at_most=1_000_000)
    steps: int = number(at_least=1, at_most=1_000_000_000)  # steps an epoch
    batch_size: int = number(at_least=2)
    learning_rate: float = number(above=0)
    schedule: str = "cosine"  # how the learning rate falls to 0: cosine or linear
    warmup: int = number(at_least=0, default=0)  # linear: epochs in which it rises first
    momentum: float = number(at_least=0, at_most=1)
    weight_decay: float = number(at_least=0)
    gradient_clip: float = number(above=0)
    label_smoothing: float = number(at_least=0, at_most=1)
    # How it is computed.
    precision: str = "float32"  # of the network's operations, by autocast: float32, bfloat16 or float16
    micro_batches: int = number(at_least=1, default=1)  # parts in which a batch passes, each with its own statistics
    sync_batch_norm: bool = False  # statistics over all processes (CUDA)
    # Where it runs; none of these is part of the hash.
    device: str
    threads: int = number(at_least=0, at_most=1024)
    workers: int = number(at_least=0, at_most=1024, default=4)  # processes that read image files
    tf32: bool = True  # TF32 in float32 products, on GPUs that have it
    deterministic: bool = False  # ask CUDA for the same bits every time; slower
    compile: bool = False  # the network by torch.compile

    def __post_init__(self):
        one_of("preset", self.preset, PRESETS)
        check_name(self.dataset)
        one_of("form", self.form, FORMS)
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("crops", self.crops, CROPS)
        check_fields(self)
        for name in ("crop_padding", "cutout"):
            if self.crops == "resized" and getattr(self, name):
                raise refuse(name, getattr(self, name), "0 with crops = resized")
        if self.warmup and (self.schedule != "linear" or self.warmup >= self.epochs):
            raise refuse("warmup", self.warmup, f"0 with a cosine, else less than epochs = {self.epochs}")
        check_side(self.side, self.form)
        if self.crop_padding > self.side:
            raise refuse("crop_padding", self.crop_padding, f"at most side = {self.side}")
        if self.batch_size > self.train_images:
            raise refuse("batch_size", self.batch_size, f"at most train_images = {self.train_images}")
        _check_computation(self)

    @property
    def cells(self) -> Genotype:
        """The genotype as a value."""
        return Genotype.from_json(json.loads(self.genotype))


CROPS = ("padded", "resized")
SCHEDULES = ("cosine", "linear")
PRECISIONS = ("float32", "bfloat16", "float16")
LAMBDAS = ("lambda_c", "lambda_1", "lambda_2")


def _check_computation(config: Any) -> None:
    one_of("precision", config.precision, PRECISIONS)
    size, parts = config.batch_size, config.micro_batches
    if size % parts or size < 2 * parts:
        raise refuse("micro_batches", parts, f"a divisor of batch_size = {size} that leaves 2 images or more a part")
