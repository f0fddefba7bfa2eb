"""Retraining: a derived network from scratch, and its error on the test images."""

import json
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from daas_lab.config import RetrainConfig
from daas_lab.data import ImageSet, retrain_splits, training_batches
from daas_lab.network import build_network, count
from daas_lab.runs import RunWriter, is_finished, open_run
from daas_lab.training import (
    StepLosses,
    cosine,
    evaluate,
    generator,
    prepare,
    run_epochs,
    seed_of,
    set_learning_rate,
)


def retrain(config: RetrainConfig, folder: str | Path, data: str | Path = "data", progress: bool = True) -> None:
    """Train in a run's folder: begin, or go on where an earlier process stopped, or do nothing if it is finished."""
    device = prepare(config)
    train, test = retrain_splits(config, data)
    with open_run(folder, config) as writer:
        if not is_finished(folder):
            _retrain(config, writer, train.to(device), test.to(device), device, progress)


def _retrain(
    config: RetrainConfig, writer: RunWriter, train: ImageSet, test: ImageSet, device: torch.device, progress: bool
) -> None:
    torch.manual_seed(seed_of(config.seed, "initial"))
    network = build_network(config).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )

    def train_epoch(epoch: int) -> dict:
        network.train()
        rate = cosine(config.learning_rate, 0.0, epoch, config.epochs)
        set_learning_rate(optimizer, rate)
        network.drop_path = config.drop_path * (epoch - 1) / config.epochs
        torch.manual_seed(seed_of(config.seed, "drop-path", epoch))
        step_losses = StepLosses(("train_loss", "auxiliary_loss"), config.steps, device)
        correct = torch.zeros((), device=device)
        batches = training_batches(
            train,
            batch_size=config.batch_size,
            steps=config.steps,
            generator=generator(device, config.seed, "train", epoch),
            crop_padding=config.crop_padding,
            flip=config.flip,
            cutout=config.cutout,
        )
        for x, y in batches:
            outputs = network(x)
            logits, auxiliary_logits = outputs if isinstance(outputs, tuple) else (outputs, None)
            loss = F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
            auxiliary_loss = torch.zeros_like(loss)
            if auxiliary_logits is not None:
                auxiliary_loss = F.cross_entropy(auxiliary_logits, y, label_smoothing=config.label_smoothing)
            optimizer.zero_grad()
            (loss + config.auxiliary_weight * auxiliary_loss).backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
            optimizer.step()
            step_losses.add(loss, auxiliary_loss)
            correct += (logits.argmax(dim=1) == y).sum()
        record = {"learning_rate": rate, "drop_path": network.drop_path} | step_losses.means(epoch)
        record["train_accuracy"] = 100 * correct.item() / (config.steps * config.batch_size)
        # Once, at the end: nothing is chosen on the test images.
        if epoch == config.epochs:
            _, accuracy = evaluate(network, test)
            record["test_error"] = 100 - accuracy
        return record

    run_epochs(writer, config.epochs, {"network": network, "optimizer": optimizer}, train_epoch, progress=progress)
    size = count(config.cells, config.form, config.channels, config.layers, config.classes, config.side)
    result = {"test_error": writer.history[-1]["test_error"]} | size
    writer.finish({"result.json": json.dumps(result) + "\n"})
