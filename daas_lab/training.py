"""What both trainers share: devices, seeds, learning rates, evaluation, the loop over epochs with its checkpoints."""

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from daas_lab.config import RetrainConfig, SearchConfig
from daas_lab.data import ImageSet, plain_batches
from daas_lab.errors import LabError, refuse
from daas_lab.runs import RunWriter


def prepare(config: SearchConfig | RetrainConfig) -> torch.device:
    """Set the number of threads and give the device, or raise `LabError` if this machine has none of that name."""
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise refuse("device", config.device, f"a device of this machine ({str(error).splitlines()[0]})") from error
    return device


def seed_of(*key: int | str) -> int:
    """A seed from what it is for, e.g. (seed, "weights", epoch): random numbers do not depend on the epochs before."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(device: torch.device, *key: int | str) -> torch.Generator:
    """A generator on `device`, seeded from `key`."""
    return torch.Generator(device=device).manual_seed(seed_of(*key))


def cosine(start: float, end: float, epoch: int, epochs: int) -> float:
    """Learning rate of epoch 1 … `epochs` on a half cosine from `start` towards `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, *rates: float) -> None:
    """Give each parameter group its learning rate."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def train_only(trained: Iterable[nn.Parameter], resting: Iterable[nn.Parameter]) -> None:
    """Turn off the gradients that the next update does not use; its result does not change."""
    for parameter in resting:
        parameter.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)


def progress_bar(total: int, unit: str = "epoch", **options: Any) -> tqdm:
    """A bar, of epochs by default. A log file gets a line per update: they are few where nobody watches."""
    return tqdm(total=total, unit=unit, mininterval=0.5 if sys.stderr.isatty() else 10, **options)


@torch.no_grad()
def evaluate(network: nn.Module, images: ImageSet, **forward: Any) -> tuple[float, float]:
    """Mean cross-entropy and accuracy in percent, in evaluation mode; `forward` goes to the network's call."""
    training = network.training
    network.eval()
    loss, correct = (torch.zeros((), device=images.targets.device) for _ in range(2))
    for x, y in plain_batches(images):
        logits = network(x, **forward).float()
        loss += F.cross_entropy(logits, y, reduction="sum")
        correct += (logits.argmax(dim=1) == y).sum()
    network.train(training)
    return loss.item() / len(images), 100 * correct.item() / len(images)


class StepLosses:
    """Losses of every step of an epoch, kept on the device and read once at its end."""

    def __init__(self, names: tuple[str, ...], steps: int, device: torch.device):
        self.names, self.step = names, 0
        self.values = torch.zeros(steps, len(names), device=device)

    def add(self, *values: Tensor) -> None:
        """The losses of the next step, in the order of the names."""
        self.values[self.step] = torch.stack([value.detach().float() for value in values])
        self.step += 1

    def means(self, epoch: int) -> dict[str, float]:
        """Name → mean over the epoch; raises `LabError` naming epoch, step and term if one was not finite."""
        values = self.values[: self.step].cpu()
        broken = (~values.isfinite()).nonzero()
        if len(broken):
            step, term = broken[0].tolist()
            raise LabError(
                f"{self.names[term]} = {values[step, term].item()} in epoch {epoch}, step {step + 1}: "
                f"must be finite; the checkpoint of epoch {epoch - 1} is kept"
            )
        return dict(zip(self.names, values.double().mean(dim=0).tolist(), strict=True))


def run_epochs(
    writer: RunWriter,
    epochs: int,
    stateful: Mapping[str, Any],
    train_epoch: Callable[[int], dict],
    *,
    on_start: Callable[[], None] = lambda: None,
    progress: bool = True,
) -> None:
    """Train the epochs that `writer`'s run still lacks, from its checkpoint if it has one.

    `stateful` name → module or optimizer is what a resume restores. `train_epoch(epoch)` trains one epoch and returns
    its record; `on_start` is called for a new run only.
    """
    state = writer.resume()
    if state is None:
        on_start()
    else:
        for name, item in stateful.items():
            item.load_state_dict(state[name])
    done = len(writer.history)
    with progress_bar(epochs, initial=done, disable=not progress) as bar:
        for epoch in range(done + 1, epochs + 1):
            begun = time.perf_counter()
            record = {"epoch": epoch} | train_epoch(epoch)
            state = {name: item.state_dict() for name, item in stateful.items()}
            writer.save_epoch(record, state, time.perf_counter() - begun)
            bar.update()
            bar.set_postfix({name: f"{value:.3g}" for name, value in record.items() if name.endswith("accuracy")})
