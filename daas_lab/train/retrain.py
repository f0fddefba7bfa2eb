"""Retraining: a derived network from scratch, or on from weights that a cut kept, and its error on test images."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daas_lab.config import RetrainConfig
from daas_lab.data.batches import ImageSet, training_batches
from daas_lab.data.image_files import FileSet
from daas_lab.data.sources import Dataset
from daas_lab.errors import refuse
from daas_lab.networks.build import build_network, network_size
from daas_lab.networks.derived import leaves_weights_unused
from daas_lab.runs.folder import is_whole
from daas_lab.train import distributed
from daas_lab.train.loop import (
    StepLosses,
    apply_gradients,
    cosine,
    evaluate,
    forward,
    fuses_sgd,
    generator,
    linear_decay,
    make_scaler,
    micro_batches,
    place,
    prepare,
    run_epochs,
    seed_draws,
    set_learning_rate,
)
from daas_lab.train.splits import retrain_splits
from daas_lab.train.writer import RunWriter, open_run

# The mobile setting of the field: networks for ImageNet with at most so many multiply-adds an image.
MOBILE_MULTIPLY_ADDS = 600_000_000


def retrain(
    config: RetrainConfig,
    folder: str | Path,
    data: str | Path | Dataset = "data",
    progress: bool = True,
    on_epoch: Callable[[], None] = lambda: None,
) -> None:
    """Train in a run's folder: begin, or go on where an earlier process stopped, or do nothing if it is finished; the
    images have to be there in any case.

    `on_epoch()` is called after every epoch, when it is on disk.
    """
    if not isinstance(config, RetrainConfig):
        raise refuse("config", config, "that of a retraining: retrain_config(…)")
    train, test = retrain_splits(config, data)
    with prepare(config) as device, open_run(folder, config) as writer:
        writer.on_epoch = on_epoch
        if not is_whole(folder):
            _retrain(config, writer, train.to(device), test.to(device), device, progress)


def _retrain(
    config: RetrainConfig,
    writer: RunWriter,
    train: ImageSet | FileSet,
    test: ImageSet | FileSet,
    device: torch.device,
    progress: bool,
) -> None:
    if progress and distributed.is_main():
        print(describe(config, network_size(config)), file=sys.stderr)
    seed_draws(device, config.seed, "initial")
    network = place(build_network(config), config, device)
    trained = distributed.parallel(network, leaves_weights_unused(config.cells))
    optimizer = make_optimizer(config, network)
    scaler = make_scaler(config, device)

    def train_epoch(epoch: int, tick: Callable[[], Any]) -> dict:
        network.train()
        rate = learning_rate(config, epoch)
        set_learning_rate(optimizer, rate)
        network.drop_path = config.drop_path * (epoch - 1) / config.epochs
        seed_draws(device, config.seed, "drop-path", epoch)
        step_losses = StepLosses(config.steps, device)
        correct = torch.zeros((), device=device)
        batches = training_batches(
            train,
            batch_size=config.batch_size,
            steps=config.steps,
            generator=generator(train.targets.device, config.seed, "train", epoch),
            crop_padding=config.crop_padding,
            flip=config.flip,
            cutout=config.cutout,
            share=distributed.share(),
        )
        for step, (x, y) in enumerate(batches):
            terms, hits = train_step(trained, optimizer, scaler, x, y, config, (epoch, step))
            step_losses.add(dict(zip(("train_loss", "auxiliary_loss"), terms, strict=True)))
            correct += hits
            tick()
        record = {"learning_rate": rate, "drop_path": network.drop_path} | step_losses.means(epoch)
        images = config.steps * config.batch_size
        record["train_accuracy"] = 100 * distributed.sum_over_processes(correct).item() / images
        distributed.average(network.buffers())
        # Once, at the end: nothing is chosen on the test images.
        if epoch == config.epochs:
            _, top_1, top_5 = evaluate(network, test, top=(1, 5))
            record |= {"test_error": 100 - top_1, "test_error_top_5": 100 - top_5}
        return record

    stateful = {"network": network, "optimizer": optimizer} | ({"scaler": scaler} if scaler.is_enabled() else {})
    run_epochs(writer, config, stateful, train_epoch, progress=progress)
    last = writer.record
    result = {name: last[name] for name in ("test_error", "test_error_top_5") if name in last} | network_size(config)
    writer.finish({"result.json": json.dumps(result) + "\n"})


def make_optimizer(config: RetrainConfig, network: nn.Module) -> torch.optim.SGD:
    """SGD for all of the network's weights."""
    rules: dict[str, Any] = {"momentum": config.momentum, "weight_decay": config.weight_decay}
    rules["fused"] = fuses_sgd(config, next(network.parameters()))
    return torch.optim.SGD(network.parameters(), lr=config.learning_rate, **rules)


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    x: Tensor,
    y: Tensor,
    config: RetrainConfig,
    key: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """One update of the weights; returns both losses [2] before it and the number of images that were right.

    `network` is one made by `distributed.parallel`; `key` (epoch, step) seeds the drop-path of micro-batches.
    """
    parts = micro_batches(config, x, y)
    terms, correct = x.new_zeros(2), x.new_zeros(())
    optimizer.zero_grad()
    for number, (part_x, part_y) in enumerate(parts):
        if config.micro_batches > 1:  # a part drops the same paths whichever process takes it
            part = distributed.rank() * len(parts) + number
            seed_draws(x.device, config.seed, "drop-path", *key, part)
        with distributed.without_averaging(network, number < len(parts) - 1):
            outputs = forward(network, config.precision, part_x)
            logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
            loss, auxiliary_loss = losses(config, logits, auxiliary, part_y)
            scaler.scale((loss + config.auxiliary_weight * auxiliary_loss) / len(parts)).backward()
        terms += torch.stack([loss.detach(), auxiliary_loss.detach()]) / len(parts)
        correct += (logits.argmax(dim=1) == part_y).sum()
    apply_gradients(optimizer, scaler, config.gradient_clip, averaged=True)
    return terms, correct


def losses(config: RetrainConfig, logits: Tensor, auxiliary: list[Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the logits [B, classes], and of the auxiliary ones (0 without a head)."""
    smoothing = config.label_smoothing
    loss = F.cross_entropy(logits, y, label_smoothing=smoothing)
    if not auxiliary:
        return loss, torch.zeros_like(loss)
    return loss, F.cross_entropy(auxiliary[0], y, label_smoothing=smoothing)


def learning_rate(config: RetrainConfig, epoch: int) -> float:
    """The learning rate of epoch 1 … `epochs`."""
    if config.schedule == "linear":
        return linear_decay(config.learning_rate, epoch, config.epochs, config.warmup)
    return cosine(config.learning_rate, 0.0, epoch, config.epochs)


def describe(config: RetrainConfig, size: dict[str, int]) -> str:
    """Parameters and multiply-adds of the network in a line, with a warning above the mobile setting."""
    millions = size["multiply_adds"] / 1e6
    text = f"{size['parameters']:,} parameters, {millions:,.{0 if millions >= 10 else 2}f} M multiply-adds an image"
    if config.weights:
        text += f"; on from {config.weights}, in its own shape: {config.channels} channels, {config.layers} cells"
    if config.form == "imagenet" and size["multiply_adds"] > MOBILE_MULTIPLY_ADDS:
        text += f": more than the {MOBILE_MULTIPLY_ADDS // 10**6} M of the mobile setting"
    return text
