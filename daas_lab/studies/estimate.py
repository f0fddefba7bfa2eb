"""What a run will take: time and memory of its real steps on this machine, measured on a few images of noise.

Time and memory are taken as linear in the images of a micro-batch. Reading image files and evaluation are not in it.
"""

import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from daas_lab.config import RetrainConfig, SearchConfig
from daas_lab.errors import refuse
from daas_lab.networks.build import build_network
from daas_lab.networks.fast_supernet import make_supernet
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.runs.folder import Run
from daas_lab.runs.provenance import machine
from daas_lab.studies.settings import Settings
from daas_lab.train.discretize import architecture_of
from daas_lab.train.distributed import parallel
from daas_lab.train.loop import make_scaler, place, prepare
from daas_lab.train.movement import RegulariserShare
from daas_lab.train.retirement import remaining
from daas_lab.train.retrain import make_optimizer, train_step
from daas_lab.train.search import build_supernet, make_optimizers
from daas_lab.train.search_steps import search_step


def estimate(config: SearchConfig | RetrainConfig, images: int = 16, steps: int = 2) -> dict:
    """`{"step_s", "epoch_s", "run_s", "peak_bytes", "images", "machine"}` of a run in one process.

    Measured in `steps` steps after a first one, with micro-batches of `images` images (or fewer, but four at least, if
    the run's are smaller) and of half as many, on the configuration's device. Every epoch counts as one in which α is
    trained.
    """
    if isinstance(config, SearchConfig) and not config.searcher.trains:
        raise refuse("method", config.method, "one that trains a super-network")
    part = config.batch_size // config.micro_batches
    images = max(4, min(images, part) // 2 * 2)
    with prepare(config) as device:
        measured = [_measure(config, size, steps, device) for size in (images // 2, images)]
    (short, small), (seconds, large) = measured
    more = max(0, part - images) / (images / 2)  # steps from the smaller batch to the larger one
    step = (seconds + max(0, seconds - short) * more) * config.micro_batches
    return {
        "step_s": step,
        "epoch_s": step * config.steps,
        "run_s": step * config.steps * config.epochs,
        "peak_bytes": round(large + max(0, large - small) * more),
        "images": images,
        "machine": machine(),
    }


def describe(config: SearchConfig | RetrainConfig, figures: dict) -> str:
    """The figures of `estimate` in a line."""
    part = config.batch_size // config.micro_batches
    return (
        f"{figures['step_s']:,.3g} s a step of {config.batch_size} images, {_duration(figures['epoch_s'])} an epoch of "
        f"{config.steps:,} steps, {_duration(figures['run_s'])} for {config.epochs} epochs; "
        f"{figures['peak_bytes'] / 2**30:.1f} GiB at {part} images at a time "
        f"(measured on {config.device} with {figures['images']} images, without reading and evaluation)"
    )


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _measure(config, images: int, steps: int, device: torch.device) -> tuple[float, int]:
    """(seconds of a step of one micro-batch of `images` images, peak memory in bytes)."""
    config = replace(config, batch_size=images, micro_batches=1)
    step = (make_search_step if isinstance(config, SearchConfig) else _make_retrain_step)(config, device)
    torch.default_generator.manual_seed(0)
    x, y = _noise(config, device)
    _reset_peak(device)
    step(x, y)
    _wait(device)
    begun = time.perf_counter()
    for _ in range(steps):
        step(x, y)
    _wait(device)
    return (time.perf_counter() - begun) / steps, peak_memory(device)


def _noise(config: SearchConfig | RetrainConfig, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch."""
    shape = (config.batch_size, config.image_channels, config.side, config.side)
    x = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    return x, torch.randint(config.classes, (config.batch_size,), device=device)


def warm_step(config: SearchConfig, *arguments: Any) -> Callable[[], None]:
    """`make_search_step` with `arguments` on a batch of noise, taken once already."""
    with prepare(config) as device:
        step, batch = make_search_step(config, device, *arguments), _noise(config, device)
        step(*batch)
    return lambda: step(*batch)


def seconds_in_turn(steps: Sequence[Callable[[], None]], config: SearchConfig, rounds: int) -> list[float]:
    """Seconds of each of `steps`, medians of `rounds`: taken in turn, so that whatever else the machine does meets all
    of them alike. Threads and device are those of `config`."""
    seconds: list[list[float]] = [[] for _ in steps]
    with prepare(config) as device:
        for _ in range(rounds):
            for step, own in zip(steps, seconds, strict=True):
                begun = time.perf_counter()
                step()
                _wait(device)
                own.append(time.perf_counter() - begun)
    return [statistics.median(own) for own in seconds]


def search_seconds(
    runs: Mapping[str, Run],
    settings: Settings,
    rounds: int = 3,
    readable: Collection[str] = (),
    sizes: Mapping[str, Any] | None = None,
    stages: int | None = None,
) -> dict[str, float]:
    """Name → seconds of all steps of that search on this machine: of every set of candidates that it went through the
    median of `rounds` steps, times the steps that it made with it. The steps of all are taken in turn. `readable`: the
    names of those whose steps are made in the readable form.

    `sizes`: fields of the configuration in which the network measured differs, for the steps of a larger search that
    loses its candidates as this one does. `stages`: measure only so many sets of candidates of a search, each for those
    after it too, which are not larger: no search comes out too short.
    """
    if not runs:
        return {}
    names: list[str] = []
    counts: list[int] = []
    steps: list[Callable[[], None]] = []
    for name, run in runs.items():
        config = replace(run.search, device=settings.device, **(sizes or {}))
        form = SuperNetwork if name in readable else make_supernet
        for epoch, start, count in _stages(run, stages):
            names.append(name)
            counts.append(count)
            steps.append(warm_step(config, epoch, start, form))
    found = dict.fromkeys(names, 0.0)
    for name, count, seconds in zip(names, counts, seconds_in_turn(steps, config, rounds), strict=True):
        found[name] += count * seconds
    return found


def _stages(run: Run, at_most: int | None) -> list[tuple[int, dict[str, torch.Tensor], int]]:
    """(epoch, α and β then, steps as in it) for the epochs in which the weights alone are trained, and for every set of
    candidates that the search went through after them, or for `at_most`, evenly chosen, each with the steps up to the
    next."""
    config = run.search
    found: list[tuple[int, dict[str, torch.Tensor], int]] = []
    before = None
    for epoch in range(1, config.epochs + 1):
        # What a method prunes after an epoch is in that epoch's α, what retires before one in that one's.
        recorded = run.architecture(epoch if config.retire else epoch - 1)
        start = {key: torch.as_tensor(value) for key, value in recorded.items()}
        alike = epoch > config.warmup, [own.tolist() for own in remaining(start).values()]
        if alike != before:
            found.append((epoch, start, 0))
            before = alike
        first, own, count = found[-1]
        found[-1] = first, own, count + config.steps
    resting = [stage for stage in found if stage[0] <= config.warmup]
    moving = found[len(resting) :]
    if at_most is None or at_most >= len(moving):
        return found
    chosen = [k * len(moving) // at_most for k in range(at_most)]
    return resting + [
        (*moving[k][:2], sum(count for _, _, count in moving[k:stop]))
        for k, stop in zip(chosen, [*chosen[1:], len(moving)], strict=True)
    ]


def make_search_step(
    config: SearchConfig,
    device: torch.device,
    epoch: int | None = None,
    parameters: Mapping[str, Any] | None = None,
    form: Callable[..., SuperNetwork] = make_supernet,
) -> Callable:
    """A step of a search on a batch x, y: α and β, then the weights, as in `epoch` (default: the last one) and with its
    cells; with α and β as in `parameters`, and without the candidates that have left by then. Of a method that draws,
    every step has draws of its own."""
    epoch = config.epochs if epoch is None else epoch
    network = place(build_supernet(config, form, epoch), config, device)
    if parameters is not None:
        with torch.no_grad():
            for name, value in parameters.items():
                getattr(network, name).copy_(torch.as_tensor(value))
        network.keep(remaining(architecture_of(network)))
    optimizers, scaler = make_optimizers(config, network), make_scaler(config, device)
    movement = RegulariserShare(network, optimizers[1])
    moments = (config.moment(epoch, training=True)._replace(step=step) for step in itertools.count())
    return lambda x, y: search_step(network, config, next(moments), (x, y), (x, y), *optimizers, scaler, movement)


def _make_retrain_step(config: RetrainConfig, device: torch.device) -> Callable:
    network = place(build_network(config), config, device)
    network.drop_path = config.drop_path
    optimizer, scaler = make_optimizer(config, network), make_scaler(config, device)
    return lambda x, y: train_step(parallel(network), optimizer, scaler, x, y, config, (1, 0))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's high-water mark of this process


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most (on CUDA: of the device's allocator)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if Path("/proc/self/status").exists():  # not getrusage, whose maximum a process inherits from who started it
        return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    unit = 1 if sys.platform == "darwin" else 1024  # never reset here: a first measurement is too large, if anything
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
