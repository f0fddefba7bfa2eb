"""The steps of a search: an update of α and β by the objective of Eq. (7), then one of the weights by Eq. (1).

How α and β become a mixture, what is added to the loss and how the gradient is taken is the method's (methods/).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from daas_lab.config import SearchConfig
from daas_lab.data.batches import ImageSet, training_batches
from daas_lab.methods import losses
from daas_lab.methods.method import Moment
from daas_lab.methods.unrolled import train_only
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.train import distributed
from daas_lab.train.loop import StepLosses, apply_gradients, forward, generator, micro_batches
from daas_lab.train.movement import RegulariserShare


@dataclass
class ArchitectureStep:
    """One update of α and β as a method sees it (`Method.architecture_gradients`)."""

    network: SuperNetwork
    config: SearchConfig
    batch: tuple[Tensor, Tensor]  # architecture images, for the objective
    next_batch: tuple[Tensor, Tensor]  # weight images, of the next step of the weights
    weight_optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    terms: dict[str, Tensor] = field(default_factory=dict)  # what the objective was made of, by name
    memory: dict[str, Tensor] = field(default_factory=dict)  # what the method keeps for its `after_step`
    averaged: bool = False  # whether the gradient is the processes' mean already

    def objective(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """L^C on a part of the batch (default: all of it) and the method's terms, as Eq. (7)."""
        x, y = self.batch if x is None or y is None else (x, y)
        network = self.network
        mixtures = network.mixtures()
        classification = losses.classification_loss(forward(network, self.config.precision, x, mixtures), y)
        regularisers = network.method.regularise(network.architectures(), mixtures, network.at)
        self.terms = {"architecture_loss": classification} | regularisers
        return sum(regularisers.values(), start=classification)

    def train_loss(self) -> Tensor:
        """L^C on the batch of the next step of the weights, Eq. (1)."""
        x, y = self.next_batch
        return losses.classification_loss(forward(self.network, self.config.precision, x), y)

    def backward(self) -> None:
        """The gradient of the objective, the batch in as many parts as the configuration says."""
        parts = micro_batches(self.config, *self.batch)
        summed: Any = 0.0
        for x, y in parts:
            self.scaler.scale(self.objective(x, y) / len(parts)).backward()
            summed += self.terms["architecture_loss"].detach() / len(parts)
        self.terms["architecture_loss"] = summed

    def average(self) -> None:
        """The gradient becomes its mean over the processes: for a method that clips it."""
        both = (self.network.alphas, self.network.betas)
        distributed.average(get(cell_type).grad for get in both for cell_type in CELL_TYPES)
        self.averaged = True


def architecture_step(step: ArchitectureStep, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """One update of α and β by Eq. (7); returns L^C and the weighted terms before it (of a method that unrolls a step
    of the weights, L^C of the unrolled ones)."""
    optimizer.zero_grad()
    step.network.method.architecture_gradients(step)
    apply_gradients(optimizer, step.scaler, averaged=step.averaged)
    step.network.method.after_step(step)
    return step.terms


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
    parts, mixtures = micro_batches(config, x, y), network.mixtures()
    mean, correct = x.new_zeros(()), x.new_zeros(())
    for part_x, part_y in parts:
        logits = forward(network, config.precision, part_x, mixtures)
        loss = losses.classification_loss(logits, part_y) / len(parts)
        scaler.scale(loss).backward()
        mean += loss.detach()
        correct += (logits.argmax(dim=1) == part_y).sum()
    if any(mixture.computed is not None for mixture in mixtures.values()):
        for parameter in optimizer.param_groups[0]["params"]:
            if parameter.grad is None:  # decay and momentum go on, as in the stacks of a fast cell
                parameter.grad = torch.zeros_like(parameter)
    apply_gradients(optimizer, scaler, config.gradient_clip)
    return mean, correct


def search_step(
    network: SuperNetwork,
    config: SearchConfig,
    at: Moment,
    arch_batch: tuple[Tensor, Tensor],
    batch: tuple[Tensor, Tensor],
    weight_optimizer: torch.optim.Optimizer,
    arch_optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    movement: RegulariserShare,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """α and β by `arch_batch`, unless they rest in this epoch, then the weights by `batch`; returns the terms of the
    objective, the loss of the weights, and the number of images that were right before."""
    architecture_parameters = network.arch_parameters()
    weight_parameters = weight_optimizer.param_groups[0]["params"]  # of a group that a resume has replaced
    terms = {}
    if at.epoch > config.warmup:
        network.at = at._replace(part="architecture")
        train_only(trained=architecture_parameters, resting=weight_parameters)
        update = ArchitectureStep(network, config, arch_batch, batch, weight_optimizer, scaler)
        movement.before_step()
        terms = architecture_step(update, arch_optimizer)
        movement.after_step()
    network.at = at._replace(part="weights")
    train_only(trained=weight_parameters, resting=architecture_parameters)
    return terms, *weight_step(network, weight_optimizer, *batch, config, scaler)


def train_steps(
    network: SuperNetwork,
    config: SearchConfig,
    epoch: int,
    images: Mapping[str, ImageSet],
    weight_optimizer: torch.optim.SGD,
    arch_optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    tick: Callable[[], Any],
) -> dict[str, Any]:
    """The steps of an epoch, each an update of α and β and one of the weights; what its record has of them."""
    device = images["weights"].targets.device
    streams = zip(
        *(
            training_batches(
                own,
                batch_size=config.batch_size,
                steps=config.steps,
                generator=generator(device, config.seed, stream, epoch),
                crop_padding=config.crop_padding,
                flip=config.flip,
                share=distributed.share(),
            )
            for stream, own in images.items()
        ),
        strict=True,
    )
    step_losses = StepLosses(config.steps, device)
    correct = torch.zeros((), device=device)
    at = config.moment(epoch, training=True)
    movement = RegulariserShare(network, arch_optimizer)
    for step, (arch_batch, batch) in enumerate(streams):
        now = at._replace(step=step)
        terms, loss, hits = search_step(
            network, config, now, arch_batch, batch, weight_optimizer, arch_optimizer, scaler, movement
        )
        # In the order in which a step computes them: the first that is not finite is the one to blame.
        step_losses.add(terms | {"train_loss": loss})
        correct += hits
        tick()
    network.at = config.moment(epoch)
    record: dict[str, Any] = step_losses.means(epoch)
    if (share := movement.share()) is not None:
        record["regulariser_share"] = share
    distributed.average(network.buffers())
    hit = distributed.sum_over_processes(correct).item()
    return record | {"train_accuracy": 100 * hit / (config.steps * config.batch_size)}
