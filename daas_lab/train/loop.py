"""What both trainers share: devices, seeds, learning rates, evaluation, the loop over epochs with its checkpoints."""

import contextlib
import importlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from daas_lab.config import RetrainConfig, SearchConfig
from daas_lab.data.batches import ImageSet, plain_batches
from daas_lab.data.image_files import FileSet
from daas_lab.errors import LabError, refuse
from daas_lab.methods.method import seed_of
from daas_lab.networks import kernels
from daas_lab.train import distributed
from daas_lab.train.writer import RunWriter

Net = TypeVar("Net", bound=nn.Module)

# What torch imports when it makes an optimizer, and when it sets whether algorithms are deterministic: seconds in which
# an interrupt leaves an import that fails when it is tried again.
LATE_PARTS = ("torch._dynamo", "torch._inductor.config")


@contextlib.contextmanager
def prepare(config: SearchConfig | RetrainConfig) -> Iterator[torch.device]:
    """Set threads and rules of computation, join the other processes if there are any, and give this one's device.

    At the end all is as it was, random generators too: a notebook's kernel has other work. Raises `LabError` if the
    configuration cannot run here.
    """
    for part in LATE_PARTS:  # before there is anything to put back
        importlib.import_module(part)
    with (
        _leaving_no_trace(),
        distributed.processes(config.device) as device,
        torch.random.fork_rng([device] if device.type == "cuda" else []),  # other GPUs are left alone
    ):
        if config.threads:
            torch.set_num_threads(config.threads)
        if config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        processes = distributed.world_size()
        if config.micro_batches % processes:
            raise refuse("micro_batches", config.micro_batches, f"a multiple of the {processes} processes")
        if config.sync_batch_norm and device.type != "cuda":
            raise refuse("sync_batch_norm", True, f"false on {config.device}: only CUDA can")
        if device.type == "cuda":
            torch.use_deterministic_algorithms(config.deterministic)
            torch.backends.cudnn.benchmark = not config.deterministic
            _set_precisions(["tf32" if config.tf32 else "ieee"] * len(_float32()))
        yield device


@contextlib.contextmanager
def _leaving_no_trace() -> Iterator[None]:
    """What training sets for the whole process is as before at the end."""
    threads, workspace = torch.get_num_threads(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    benchmark, precisions = torch.backends.cudnn.benchmark, [part.fp32_precision for part in _float32()]
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    with distributed.keeping_freed_memory():
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.backends.cudnn.benchmark = benchmark
            _set_precisions(precisions)
            torch.use_deterministic_algorithms(deterministic, warn_only=warns)
            if workspace is None:
                os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def _float32() -> tuple[Any, ...]:
    """What has a precision of its own for float32 on CUDA: convolutions, recurrences, products of matrices."""
    cudnn: Any = torch.backends.cudnn  # typed without its `conv`
    return cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul


def _set_precisions(precisions: Iterable[str]) -> None:
    """Only where it is another one: what is written no longer follows `torch.backends.fp32_precision`."""
    for part, precision in zip(_float32(), precisions, strict=True):
        if part.fp32_precision != precision:
            part.fp32_precision = precision


def generator(device: torch.device, *key: int | str) -> torch.Generator:
    """A generator on `device`, seeded from `key`."""
    return torch.Generator(device=device).manual_seed(seed_of(*key))


def seed_draws(device: torch.device, *key: int | str) -> None:
    """Seed what draws without a generator of its own, on the CPU and on `device`, from `key`: no other GPU's."""
    torch.default_generator.manual_seed(seed_of(*key))
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed_of(*key))


def cosine(start: float, end: float, epoch: int, epochs: int) -> float:
    """Learning rate of epoch 1 … `epochs` on a half cosine from `start` towards `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2


def linear_decay(start: float, epoch: int, epochs: int, warmup: int) -> float:
    """Learning rate of epoch 1 … `epochs`: up to `start` in `warmup` epochs, then down in a line towards 0."""
    if epoch <= warmup:
        return start * epoch / warmup
    return start * (epochs - epoch + 1) / (epochs - warmup)


def set_learning_rate(optimizer: torch.optim.Optimizer, *rates: float) -> None:
    """Give each parameter group its learning rate."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


# --- one update -------------------------------------------------------------------------------------------------------


def place(network: Net, config: SearchConfig | RetrainConfig, device: torch.device) -> Net:
    """The network on its device, in the form in which the configuration computes it; its parameters' names stay."""
    if config.sync_batch_norm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network = network.to(device).to(memory_format=torch.channels_last)
    if config.compile:
        torch.compiler.assume_constant_result(kernels.convolves_in_tf32)
        network.compile()
    return network


def forward(network: nn.Module, precision: str, x: Tensor, *arguments: Any) -> Any:
    """`network(x, …)` with its operations in `precision`; the logits that come out are float32 at least.

    Autocast leaves float32 what needs it: weights, softmax, and the statistics of batch-norm.
    """
    with torch.autocast(x.device.type, getattr(torch, precision), enabled=precision != "float32"):
        outputs = network(x, *arguments)
    if isinstance(outputs, tuple):
        return tuple(_at_least_float32(part) for part in outputs)
    return _at_least_float32(outputs)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def micro_batches(config: SearchConfig | RetrainConfig, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """This process's share of a batch, in the parts that pass one by one."""
    parts = config.micro_batches // distributed.world_size()
    return list(zip(x.chunk(parts), y.chunk(parts), strict=True))


def make_scaler(config: SearchConfig | RetrainConfig, device: torch.device) -> torch.amp.GradScaler:
    """What keeps float16's gradients in range; does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=config.precision == "float16")


def fuses_sgd(config: SearchConfig | RetrainConfig, like: Tensor) -> bool:
    """Whether SGD moves parameters `like` this one in one kernel: on CUDA, unless float16's scaler may skip the first
    step, after which the momentum would be whatever was in memory."""
    return like.is_cuda and config.precision != "float16"


def apply_gradients(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, clip: float | None = None, averaged: bool = False
) -> None:
    """One step of `optimizer`, with gradients averaged over the processes (`averaged`: they are) and clipped."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if all(parameter.grad is None for parameter in parameters):
        return  # all of them rest in this step, and a scaler refuses one that has nothing to scale
    if not averaged:
        distributed.average(parameter.grad for parameter in parameters)
    scaler.unscale_(optimizer)
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    scaler.step(optimizer)
    scaler.update()


LINE = "{l_bar}{bar}| {remaining} left{postfix}"  # of training: what a search says fits into 80 columns


def progress_bar(total: int, unit: str = "epoch", **options: Any) -> tqdm:
    """A bar, of epochs by default. A log file gets a line per update: they are few where nobody watches."""
    return tqdm(total=total, unit=unit, mininterval=0.5 if sys.stderr.isatty() else 10, **options)


# --- evaluation and the loop over epochs ------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(
    network: nn.Module, images: ImageSet | FileSet, top: tuple[int, ...] = (1,), **forward: Any
) -> tuple[float, ...]:
    """Mean cross-entropy and accuracies in percent, in float32 and evaluation mode.

    An image counts for k of `top` if its class is among the k likeliest. `forward` goes to the network's call.
    """
    training = network.training
    network.eval()
    try:
        totals = torch.zeros(1 + len(top), device=images.mean.device)
        for x, y in plain_batches(images, share=distributed.share()):
            logits = network(x, **forward).float()
            totals[0] += F.cross_entropy(logits, y, reduction="sum")
            for number, k in enumerate(top, start=1):
                found = logits.argmax(1, keepdim=True) if k == 1 else logits.topk(min(k, logits.shape[1])).indices
                totals[number] += (found == y[:, None]).sum()
    finally:
        network.train(training)
    loss, *correct = distributed.sum_over_processes(totals).tolist()
    return loss / len(images), *(100 * number / len(images) for number in correct)


class StepLosses:
    """Losses of every step of an epoch by name, kept on the device and read once at its end."""

    def __init__(self, steps: int, device: torch.device):
        self.steps, self.device, self.step = steps, device, 0
        self.values: dict[str, Tensor] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """The losses of the next step, in the order in which it computed them."""
        for name, value in terms.items():
            if name not in self.values:
                self.values[name] = torch.zeros(self.steps, device=self.device)
            self.values[name][self.step] = value.detach().float()
        self.step += 1

    def means(self, epoch: int) -> dict[str, float]:
        """Name → mean over the epoch; raises `LabError` naming epoch, step and term if one was not finite."""
        values = torch.stack([column[: self.step] for column in self.values.values()], dim=1)
        distributed.average([values])
        values = values.cpu()
        broken = (~values.isfinite()).nonzero()
        if len(broken):
            step, term = broken[0].tolist()
            raise _not_finite(list(self.values)[term], values[step, term].item(), epoch, step + 1)
        return dict(zip(self.values, values.double().mean(dim=0).tolist(), strict=True))


def _not_finite(term: str, value: float, epoch: int, step: int) -> LabError:
    kept = f"; the checkpoint of epoch {epoch - 1} is kept" if epoch > 1 else ""
    return LabError(f"{term} = {value} in epoch {epoch}, step {step}: must be finite{kept}")


def _check_finite(values: Mapping[str, Any], epoch: int, steps: int) -> None:
    """Raise unless what an epoch leaves is finite, weights too: its last step's loss was computed before its update."""
    for name, value in values.items():
        numbers = torch.as_tensor(value) if isinstance(value, float | Tensor) else torch.zeros(())
        if numbers.is_floating_point() and not numbers.isfinite().all():
            raise _not_finite(name, numbers[~numbers.isfinite()][0].item(), epoch, steps)


@contextlib.contextmanager
def fitting(folder: str | Path) -> Iterator[None]:
    """Inside, what a checkpoint of the run in `folder` lacks or has too much is said in a line."""
    try:
        yield
    except LabError:
        raise
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise LabError(f"the checkpoint of {folder} is not one of its configuration: {why}") from error


def restore(folder: str | Path, stateful: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Give modules and optimizers the state of a checkpoint of the run in `folder`."""
    with fitting(folder):
        for name, item in stateful.items():
            own = state[name]
            if isinstance(item, torch.optim.Optimizer):  # fused or not as made here, not as where the checkpoint was
                groups = zip(own["param_groups"], item.param_groups, strict=False)  # what it lacks, torch says
                kept = [saved | ({"fused": made["fused"]} if "fused" in made else {}) for saved, made in groups]
                own = own | {"param_groups": kept + own["param_groups"][len(kept) :]}
            item.load_state_dict(own)


def run_epochs(
    writer: RunWriter,
    config: SearchConfig | RetrainConfig,
    stateful: Mapping[str, Any],
    train_epoch: Callable[[int, Callable[[], Any]], dict],
    *,
    on_resume: Callable[[Mapping[str, Any]], None] = lambda state: None,
    describe: Callable[[], str] | None = None,
    progress: bool = True,
) -> None:
    """Train the epochs that `writer`'s run still lacks, from its checkpoint if it has one.

    `stateful` name → module or optimizer is what a resume restores. `train_epoch(epoch, tick)` trains one epoch, calls
    `tick()` after every step and returns its record; `on_resume(state)` is called before an old run is restored.
    `describe()` is what the progress line says of the epoch that `writer` has saved last, by default its accuracies.
    """
    state = writer.resume()
    if state is None:
        writer.begin()
    else:
        with fitting(writer.folder):
            on_resume(state)
        restore(writer.folder, stateful, state)
    done = writer.epoch
    images = config.steps * config.batch_size

    def told() -> str:
        said = describe() if describe else _accuracies(writer.record)
        return f"epoch {writer.epoch}/{config.epochs}, {said}"

    silent = not (progress and distributed.is_main())
    with progress_bar(config.epochs * images, initial=done * images, bar_format=LINE, disable=silent) as bar:
        if done and not bar.disable:
            bar.set_postfix_str(told())
        for epoch in range(done + 1, config.epochs + 1):
            begun = time.perf_counter()
            record = {"epoch": epoch} | train_epoch(epoch, lambda: bar.update(config.batch_size))
            state = {name: item.state_dict() for name, item in stateful.items()}
            _check_finite(record | state["network"], epoch, config.steps)
            writer.save_epoch(record, state, time.perf_counter() - begun)
            if not bar.disable:
                bar.set_postfix_str(told())


def _accuracies(record: Mapping[str, Any]) -> str:
    named = {name.replace("_", " "): value for name, value in record.items() if name.endswith("accuracy")}
    return ", ".join(f"{name} {value:.1f} %" for name, value in named.items())
