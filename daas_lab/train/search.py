"""The search: network weights and architecture parameters trained in turn.

An epoch is made of steps (search_steps.py); before and after it candidates leave, the network may deepen, the method
acts, and all is recorded. A method without a super-network trains nothing.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daas_lab.config import SearchConfig
from daas_lab.data.batches import ImageSet
from daas_lab.data.sources import Dataset
from daas_lab.errors import LabError, refuse
from daas_lab.methods.check import check_start
from daas_lab.methods.method import seed_of
from daas_lab.networks.fast_supernet import check_checkpointed, make_supernet
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.runs.folder import epochs_done, is_whole, read_checkpoint, read_search_config, read_stop
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.space.operations import named_operations
from daas_lab.train.discretize import accuracy_drops, architecture_of, derive_genotype, own_cells, within_reach
from daas_lab.train.loop import (
    cosine,
    evaluate,
    fitting,
    fuses_sgd,
    make_scaler,
    place,
    prepare,
    restore,
    run_epochs,
    set_learning_rate,
)
from daas_lab.train.progress import search_line
from daas_lab.train.retirement import Retirement, follow, remaining
from daas_lab.train.search_steps import train_steps
from daas_lab.train.splits import Splits, search_splits
from daas_lab.train.writer import RunWriter, open_run


def search(
    config: SearchConfig,
    folder: str | Path,
    data: str | Path | Dataset = "data",
    progress: bool = True,
    on_epoch: Callable[[], None] = lambda: None,
) -> None:
    """Search in a run's folder: begin, or go on where an earlier process stopped, or do nothing if it is finished; the
    images have to be there in any case.

    `on_epoch()` is called after every epoch, when it is on disk.
    """
    if not isinstance(config, SearchConfig):
        raise refuse("config", config, "that of a search: search_config(…)")
    if config.method_digest:  # of one's own: what it gives is looked at before images are read or a folder is made
        check_start(config.searcher, config.space, config.edge_budget, config.epochs, config.layers)
    if config.checkpointed:
        check_checkpointed(config.space, config.searcher)
    splits = search_splits(config, data) if config.searcher.trains else None
    with prepare(config) as device, open_run(folder, config) as writer:
        if is_whole(folder):
            return
        writer.on_epoch = on_epoch
        if splits is None:
            _finish(config, writer, {})
        else:
            _search(config, writer, splits, device, progress)


def build_supernet(
    config: SearchConfig, form: Callable[..., SuperNetwork] = make_supernet, epoch: int = 1, **options: Any
) -> SuperNetwork:
    """The super-network as the search starts it, by default in the form that serves it best, with the cells that it
    has in `epoch`."""
    named_operations(config.operations, config.operations_digest)
    if form is make_supernet:
        options.setdefault("checkpointed", config.checkpointed)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on as if nothing had been drawn
        torch.default_generator.manual_seed(seed_of(config.seed, "initial"))  # not those of the GPUs
        network = form(
            config.space,
            config.searcher,
            budget=config.edge_budget,
            channels=config.channels,
            layers=config.searcher.depth(config.layers, config.moment(epoch)),
            classes=config.classes,
            image_channels=config.image_channels,
            partial_channels=config.partial_channels,
            **options,
        )
    network.at = config.moment()
    return network


def load_supernet(folder: str | Path, budget: str | EdgeBudget | None = None) -> tuple[SuperNetwork, SearchConfig]:
    """The super-network of a run, on the CPU, and its configuration: as it was at `budget`, if it has been there and
    gone on, else as it is after its last epoch so far."""
    config = read_search_config(folder)
    if not config.searcher.trains:
        raise LabError(f"run = {str(folder)!r}: must be a search with a super-network; {config.method} has none")
    stop = config.epochs if budget is None else config.epoch_of(budget)
    gone_on = stop < config.epochs and epochs_done(folder) >= stop
    state, epoch = (read_stop(folder, stop), stop) if gone_on else read_checkpoint(folder)
    network = build_supernet(config, epoch=epoch)
    network.at = config.moment(epoch)
    with fitting(folder):
        network.keep(remaining(state["network"]))
    restore(folder, {"network": network}, state)
    return network, config


def supernets_at(folder: str | Path, budgets: Iterable[str | EdgeBudget]) -> Iterator[tuple[SuperNetwork, list]]:
    """The super-networks of a run that `budgets` are cut from, each with those that are cut from it: one for all,
    unless the search stopped at some of them and went on."""
    config = read_search_config(folder)
    by_epoch: dict[int, list] = {}
    for budget in budgets:
        by_epoch.setdefault(config.epoch_of(budget), []).append(budget)
    for own in by_epoch.values():
        yield load_supernet(folder, own[0])[0], own


def _search(config: SearchConfig, writer: RunWriter, splits: Splits, device: torch.device, progress: bool) -> None:
    network = place(build_supernet(config), config, device)
    weights, architecture, held_out = (
        part.to(device) for part in (splits.weights, splits.architecture, splits.held_out)
    )
    weight_optimizer, arch_optimizer = make_optimizers(config, network)
    scaler, method = make_scaler(config, device), config.searcher
    retirement = Retirement(config).to(device) if config.retire else None
    stops = set(config.stops.values()) - {config.epochs}

    def fit_depth(epoch: int) -> None:
        layers = method.depth(config.layers, config.moment(epoch))
        if layers != len(network.cells):
            begin_anew(network, config, layers, epoch, weight_optimizer, arch_optimizer)
            place(network, config, device)

    def as_in(state: Mapping[str, Any]) -> None:
        """The network of the checkpoint's epoch, to be restored."""
        fit_depth(writer.epoch)
        follow(network, weight_optimizer, state["network"])

    def train_epoch(epoch: int, tick: Callable[[], Any]) -> dict:
        fit_depth(epoch)
        if retirement is not None and epoch > 1:
            retirement.after(network, epoch - 1)
        follow(network, weight_optimizer, architecture_of(network))
        network.train()
        rate = cosine(config.learning_rate, config.learning_rate_min, *method.annealing(config.moment(epoch)))
        alpha_rate = config.arch_learning_rate if epoch > config.alpha_delay else 0.0
        set_learning_rate(weight_optimizer, rate)
        set_learning_rate(arch_optimizer, alpha_rate, config.arch_learning_rate)
        images = {"architecture": architecture, "weights": weights}
        record: dict[str, Any] = {"learning_rate": rate}
        record |= train_steps(network, config, epoch, images, weight_optimizer, arch_optimizer, scaler, tick)
        record["held_out_loss"], record["held_out_accuracy"] = evaluate(network, held_out)
        evaluated = _snapshot(network)
        method.after_epoch(SearchState(network, config, epoch, weights, held_out))
        # Before the checkpoint, which has the weights of those that are left.
        follow(network, weight_optimizer, architecture_of(network))
        writer.snapshot = _snapshot(network)
        if epoch in stops:
            writer.keep_stop(epoch, {"network": network.state_dict()})
        with torch.no_grad():
            record |= method.measure(network.architectures(), network.mixtures(), network.at)
        if cells := within_reach(network, own_cells(network, config, config.gap_budgets_of(epoch))):
            begun = time.perf_counter()
            same = all(torch.equal(value, evaluated[name]) for name, value in writer.snapshot.items())
            before = record["held_out_accuracy"] if same else None  # else some have left since
            cut = {"edge_weights": [config.gap_edge_weight], "batch_norms": ["as-trained"], "stages": ["both"]}
            record["gap"] = accuracy_drops(network, config, held_out, weights, cells, cells=cells, before=before, **cut)
            writer.timings["gap_seconds"] = time.perf_counter() - begun
        return record

    measured: list[dict] = []  # the last record with the cut

    def describe() -> str:
        measured[:] = [writer.record] if writer.record.get("gap") else measured
        return search_line(config, [*measured, writer.record], writer.snapshot)

    writer.snapshot = _snapshot(network)
    run_epochs(
        writer,
        config,
        {"network": network, "weight_optimizer": weight_optimizer, "arch_optimizer": arch_optimizer}
        | ({"scaler": scaler} if scaler.is_enabled() else {})
        | ({"retirement": retirement} if retirement is not None else {}),
        train_epoch,
        on_resume=as_in,
        describe=describe,
        progress=progress,
    )
    _finish(config, writer, writer.snapshot)


def make_optimizers(config: SearchConfig, network: SuperNetwork) -> tuple[torch.optim.SGD, torch.optim.Optimizer]:
    """SGD for the weights, and the method's (Adam, if it has none of its own) for α and β in a group each."""
    like = network.alphas(CELL_TYPES[0])
    rules: dict[str, Any] = {"momentum": config.momentum, "weight_decay": config.weight_decay}
    rules["fused"] = fuses_sgd(config, like)
    if not (weights := network.weight_parameters()):
        raise LabError(f"method {config.method}: trains_weight leaves no weight of the network to train")
    weight_optimizer = torch.optim.SGD(weights, lr=config.learning_rate, **rules)
    groups = [{"params": [get(cell_type) for cell_type in CELL_TYPES]} for get in (network.alphas, network.betas)]
    rules = {"lr": config.arch_learning_rate, "weight_decay": config.arch_weight_decay, "fused": like.is_cuda}
    return weight_optimizer, config.searcher.optimizer(groups, **rules)


def begin_anew(
    network: SuperNetwork, config: SearchConfig, layers: int, epoch: int, *optimizers: torch.optim.Optimizer
) -> None:
    """Fresh weights for a network of `layers` cells; what the optimizers remember is of the network before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(config.seed, "initial", epoch))
        network.begin(layers)
    for optimizer in optimizers:
        optimizer.state.clear()
    optimizers[0].param_groups[0]["params"] = network.weight_parameters()


def _finish(config: SearchConfig, writer: RunWriter, parameters: Mapping[str, Tensor]) -> None:
    genotype = derive_genotype(config, parameters, config.edge_budget)
    writer.finish({"genotype.json": json.dumps(genotype.to_json(), indent=2) + "\n"})


# --- what is recorded and given to methods ---------------------------------------------------------------------------


@dataclass
class SearchState:
    """A search between two epochs as a method sees it (`Method.after_epoch`)."""

    network: SuperNetwork
    config: SearchConfig
    epoch: int
    weights: ImageSet  # images on which the network weights are trained
    held_out: ImageSet


def _snapshot(network: SuperNetwork) -> dict[str, Tensor]:
    return {name: value.cpu().clone() for name, value in architecture_of(network).items()}
