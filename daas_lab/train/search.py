"""The search: network weights and architecture parameters trained in turn.

Each step makes one update of α and β on a batch of the architecture images, by the objective of Eq. (7), then one
update of the weights on a batch of the weight images, by Eq. (1). `darts2` takes the first through an unrolled step of
the second (unrolled.py); `random` draws a cell and trains nothing.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daas_lab.config import SearchConfig
from daas_lab.data.batches import training_batches
from daas_lab.data.sources import Dataset
from daas_lab.errors import LabError
from daas_lab.methods import losses
from daas_lab.methods.relaxations import ArchitectureWeights, make_relaxation
from daas_lab.methods.schedules import coefficient
from daas_lab.methods.unrolled import train_only, unrolled_gradients
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.runs.folder import is_whole, read_checkpoint, read_search_config
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.train import distributed
from daas_lab.train.discretize import accuracy_drops, architecture_of, derive_genotype
from daas_lab.train.loop import (
    StepLosses,
    apply_gradients,
    cosine,
    evaluate,
    forward,
    generator,
    make_scaler,
    micro_batches,
    place,
    prepare,
    run_epochs,
    seed_of,
    set_learning_rate,
)
from daas_lab.train.splits import Splits, search_splits
from daas_lab.train.writer import RunWriter, open_run


def search(
    config: SearchConfig,
    folder: str | Path,
    data: str | Path | Dataset = "data",
    progress: bool = True,
    on_epoch: Callable[[], None] = lambda: None,
) -> None:
    """Search in a run's folder: begin, or go on where an earlier process stopped, or do nothing if it is finished.

    `on_epoch()` is called after every epoch, when it is on disk.
    """
    splits = search_splits(config, data) if config.searcher.trains else None
    with prepare(config) as device, open_run(folder, config) as writer:
        if is_whole(folder):
            return
        writer.on_epoch = on_epoch
        if splits is None:
            _finish(config, writer, {})
        else:
            _search(config, writer, splits, device, progress)


def build_supernet(config: SearchConfig) -> SuperNetwork:
    """The super-network as the search starts it."""
    torch.manual_seed(seed_of(config.seed, "initial"))
    return SuperNetwork(config, make_relaxation(config))


def load_supernet(folder: str | Path) -> tuple[SuperNetwork, SearchConfig]:
    """The super-network of a run's last epoch so far, on the CPU, and its configuration."""
    config = read_search_config(folder)
    if not config.searcher.trains:
        raise LabError(f"run = {str(folder)!r}: must be a search with a super-network; {config.method} has none")
    network = build_supernet(config)
    state, network.epoch = read_checkpoint(folder)
    network.load_state_dict(state["network"])
    return network, config


def _search(config: SearchConfig, writer: RunWriter, splits: Splits, device: torch.device, progress: bool) -> None:
    network = place(build_supernet(config), config, device)
    weights, architecture, held_out = (
        part.to(device) for part in (splits.weights, splits.architecture, splits.held_out)
    )
    # Asked for once: each call walks through the whole network.
    architecture_parameters, weight_parameters = network.arch_parameters(), network.weight_parameters()
    weight_optimizer, arch_optimizer = make_optimizers(config, network)
    scaler = make_scaler(config, device)

    def train_epoch(epoch: int, tick: Callable[[], Any]) -> dict:
        network.train()
        network.epoch = epoch
        rate = cosine(config.learning_rate, config.learning_rate_min, epoch, config.epochs)
        alpha_rate = config.arch_learning_rate if epoch > config.alpha_delay else 0.0
        set_learning_rate(weight_optimizer, rate)
        set_learning_rate(arch_optimizer, alpha_rate, config.arch_learning_rate)
        lambdas = lambda_values(config, epoch)
        searches = epoch > config.warmup
        # In the order in which a step computes them: the first that is not finite is the one to blame.
        names = ("architecture_loss", "operation_loss", "edge_loss", "train_loss")
        step_losses = StepLosses(names if searches else names[-1:], config.steps, device)
        correct = torch.zeros((), device=device)
        streams = zip(
            *(
                training_batches(
                    images,
                    batch_size=config.batch_size,
                    steps=config.steps,
                    generator=generator(device, config.seed, stream, epoch),
                    crop_padding=config.crop_padding,
                    flip=config.flip,
                    share=distributed.share(),
                )
                for stream, images in (("architecture", architecture), ("weights", weights))
            ),
            strict=True,
        )
        for (arch_x, arch_y), (x, y) in streams:
            terms = ()
            if searches:
                unroll = (weight_optimizer, x, y) if config.method == "darts2" else None
                train_only(trained=architecture_parameters, resting=weight_parameters)
                terms = architecture_step(network, arch_optimizer, arch_x, arch_y, config, lambdas, unroll, scaler)
            train_only(trained=weight_parameters, resting=architecture_parameters)
            loss, hits = weight_step(network, weight_optimizer, x, y, config, scaler)
            step_losses.add(*terms, loss)
            correct += hits
            tick()
        record = {"learning_rate": rate} | dict(zip(("lambda_c", "lambda_1", "lambda_2"), lambdas, strict=True))
        record |= step_losses.means(epoch)
        distributed.average(network.buffers())
        images = config.steps * config.batch_size
        record["train_accuracy"] = 100 * distributed.sum_over_processes(correct).item() / images
        record["held_out_loss"], record["held_out_accuracy"] = evaluate(network, held_out)
        writer.snapshots.append(_snapshot(network))
        record |= _sharpness(network)
        if budgets := config.gap_budgets_of(epoch):
            begun = time.perf_counter()
            record["gap"] = accuracy_drops(
                network,
                config,
                held_out,
                weights,
                budgets,
                edge_weights=[config.gap_edge_weight],
                batch_norms=["as-trained"],
                stages=["both"],
                before=record["held_out_accuracy"],
            )
            writer.timings["gap_seconds"] = time.perf_counter() - begun
        return record

    run_epochs(
        writer,
        config,
        {"network": network, "weight_optimizer": weight_optimizer, "arch_optimizer": arch_optimizer}
        | ({"scaler": scaler} if scaler.is_enabled() else {}),
        train_epoch,
        on_start=lambda: writer.snapshots.append(_snapshot(network)),
        progress=progress,
    )
    _finish(config, writer, writer.snapshots[-1])


def make_optimizers(config: SearchConfig, network: SuperNetwork) -> tuple[torch.optim.SGD, torch.optim.Adam]:
    """SGD for the weights, and Adam for α and β in a group each."""
    fused = network.alphas_normal.is_cuda
    rules = {"momentum": config.momentum, "weight_decay": config.weight_decay, "fused": fused}
    weight_optimizer = torch.optim.SGD(network.weight_parameters(), lr=config.learning_rate, **rules)
    groups = [{"params": [get(cell_type) for cell_type in CELL_TYPES]} for get in (network.alphas, network.betas)]
    rules = {"betas": (0.5, 0.999), "weight_decay": config.arch_weight_decay, "fused": fused}
    return weight_optimizer, torch.optim.Adam(groups, lr=config.arch_learning_rate, **rules)


def _finish(config: SearchConfig, writer: RunWriter, parameters: Mapping[str, Tensor]) -> None:
    genotype = derive_genotype(config, parameters, config.edge_budget)
    writer.finish({"genotype.json": json.dumps(genotype.to_json(), indent=2) + "\n"})


# --- the two updates --------------------------------------------------------------------------------------------------


def architecture_step(
    network: SuperNetwork,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    config: SearchConfig,
    lambdas: tuple[float, float, float],
    unroll: tuple[torch.optim.SGD, Tensor, Tensor] | None,
    scaler: torch.amp.GradScaler,
) -> tuple[Tensor, Tensor, Tensor]:
    """One update of α and β by Eq. (7); returns L^C, L^O and L^E before it.

    `unroll`: the weights' optimizer and the batch of its next step, for the gradient through that step; L^C is then
    that of the unrolled weights.
    """
    terms: tuple[Tensor, ...] = ()

    def objective(x: Tensor = x, y: Tensor = y) -> Tensor:
        nonlocal terms
        mixture = network.architecture_weights()
        classification = losses.classification_loss(forward(network, config.precision, x, mixture), y)
        terms = (classification, *discretization_losses(config, network, mixture))
        if config.searcher.lambdas is None:
            return classification
        factor = config.searcher.regulariser_factor or config.constants.regulariser_factor
        return losses.prioritised_objective(*terms, factor * lambdas[0], *lambdas[1:])

    optimizer.zero_grad()
    if unroll is None:
        parts = micro_batches(config, x, y)
        summed = 0.0
        for part_x, part_y in parts:
            scaler.scale(objective(part_x, part_y) / len(parts)).backward()
            summed += terms[0].detach() / len(parts)
        terms = (summed, *terms[1:])
    else:
        weight_optimizer, train_x, train_y = unroll
        parameters, weights = network.arch_parameters(), weight_optimizer.param_groups[0]["params"]

        def train_loss() -> Tensor:
            return losses.classification_loss(forward(network, config.precision, train_x), train_y)

        gradients = unrolled_gradients(network, parameters, weights, weight_optimizer, train_loss, objective)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
    apply_gradients(optimizer, scaler)
    return terms


def weight_step(
    network: SuperNetwork,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    config: SearchConfig,
    scaler: torch.amp.GradScaler,
) -> tuple[Tensor, Tensor]:
    """One update of the network weights by Eq. (1); returns the loss and the number of images it had right before."""
    optimizer.zero_grad()
    parts = micro_batches(config, x, y)
    mean, correct = x.new_zeros(()), x.new_zeros(())
    for part_x, part_y in parts:
        logits = forward(network, config.precision, part_x)
        loss = losses.classification_loss(logits, part_y) / len(parts)
        scaler.scale(loss).backward()
        mean += loss.detach()
        correct += (logits.argmax(dim=1) == part_y).sum()
    apply_gradients(optimizer, scaler, config.gradient_clip)
    return mean, correct


def discretization_losses(
    config: SearchConfig, network: SuperNetwork, mixture: Mapping[str, ArchitectureWeights]
) -> tuple[Tensor, Tensor]:
    """L^O and L^E as method and protocol compute them; L^E is 0 for a method that asks for no number of edges."""
    budget, constants = config.edge_budget, config.constants
    operation = losses.operation_loss(
        {name: weights.operation_logits for name, weights in mixture.items()}, budget.operations
    )
    if config.searcher.lambdas is None:
        return operation, torch.zeros_like(operation)
    if config.method == "da2s_exact":
        return operation, losses.exact_edge_loss({name: weights.edge_logits for name, weights in mixture.items()})
    edge = losses.edge_loss(
        {name: network.betas(name) for name in mixture},
        {name: budget.targets(name) for name in mixture},
        constants.first_edge_node,
        constants.square_factor,
    )
    return operation, edge


def lambda_values(config: SearchConfig, epoch: int) -> tuple[float, float, float]:
    """λ_c, λ_1 and λ_2 of an epoch."""
    if config.searcher.lambdas is None or epoch <= config.hold:
        return 0.0, 0.0, 0.0
    authors_log = config.constants.authors_log
    return tuple(
        coefficient(text, epoch - config.hold, config.epochs - config.hold, authors_log)
        for text in (config.lambda_c, config.lambda_1, config.lambda_2)
    )


# --- what is recorded -------------------------------------------------------------------------------------------------


def _snapshot(network: SuperNetwork) -> dict[str, Tensor]:
    return {name: value.cpu().clone() for name, value in architecture_of(network).items()}


@torch.no_grad()
def _sharpness(network: SuperNetwork) -> dict[str, float]:
    """Means over the edges of both cells: entropy (nats) and largest weight of their operations."""
    logits = torch.cat([weights.operation_logits for weights in network.architecture_weights().values()])
    return {
        "operation_entropy": losses.operation_entropy(logits).mean().item(),
        "largest_operation_weight": logits.softmax(dim=1).amax(dim=1).mean().item(),
    }
