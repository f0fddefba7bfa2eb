"""Step time and peak memory of the super-network on this machine: the readable form as it stands in textbooks, the fast
one, and that with checkpointing.

A step is the search's first-order step: one architecture update (backward pass to α and β only, Adam), then one weight
update (backward pass to the weights only, gradient norm clipped, SGD). The forms are measured in turn within one run,
medians are reported; peak memory is that of a fresh process for each form. Counted operations are those that reach a
backend in a whole step, views and the optimisers' included. The floor is what the convolutions alone take, forward and
backward of both updates, each in the fastest form that the library knows.
"""

import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from daas_lab.compose import retrain_config, search_config
from daas_lab.config import RetrainConfig, SearchConfig
from daas_lab.data.batches import ImageSet, training_batches
from daas_lab.errors import LabError, one_of
from daas_lab.methods.unrolled import train_only
from daas_lab.networks import kernels
from daas_lab.networks.build import build_network, plain_network
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.runs.provenance import machine
from daas_lab.studies.estimate import peak_memory
from daas_lab.train.discretize import accuracy_drops
from daas_lab.train.distributed import keeping_freed_memory, open_device
from daas_lab.train.loop import place
from daas_lab.train.search import build_supernet

SIZES = {
    "full": lambda: search_config("full", "cifar10"),
    "half": lambda: search_config("full", "cifar10", side=16),
    "mini": lambda: search_config("mini", "fashion_mnist"),
    "tiny": lambda: search_config("tiny", "digits"),
}
DERIVED = {
    "full": lambda: retrain_config("DARTS_V2", "full", "cifar10"),
    "half": lambda: retrain_config("DARTS_V2", "full", "cifar10", side=16),
    "mini": lambda: retrain_config("DARTS_V2", "mini", "fashion_mnist"),
    "tiny": lambda: retrain_config("DARTS_V2", "tiny", "digits"),
}
FORMS = ("textbook", "fast", "checkpointed")
GAP_IMAGES = 500


class Step:
    """One form of the super-network with its optimisers and a random batch; a call runs one step."""

    def __init__(self, config: SearchConfig, form: str, device: str):
        self.device = open_device(device)
        if form == "textbook":
            network = build_supernet(config, SuperNetwork)
        else:
            network = build_supernet(config, checkpointed=form == "checkpointed")
        self.network = place(network, config, self.device)
        images = torch.randn(config.batch_size, config.image_channels, config.side, config.side, device=self.device)
        self.images, self.classes = images, torch.randint(config.classes, (config.batch_size,), device=self.device)
        self.architecture, self.weights = network.arch_parameters(), network.weight_parameters()
        self.adam = torch.optim.Adam(self.architecture, config.arch_learning_rate, (0.5, 0.999))
        self.sgd = torch.optim.SGD(
            self.weights, config.learning_rate, config.momentum, weight_decay=config.weight_decay
        )
        self.clip = config.gradient_clip

    def __call__(self) -> dict[str, float]:
        """Seconds of the whole step, of the architecture's and the weights' part, and of one forward pass."""
        marks = [_mark(self.device)]
        self._update(self.architecture, self.weights, self.adam, None, marks)
        self._update(self.weights, self.architecture, self.sgd, self.clip, marks)
        start, forward, middle, _, end = marks
        seconds = _seconds
        return {
            "step_s": seconds(start, end),
            "forward_s": seconds(start, forward),
            "architecture_s": seconds(start, middle),
            "weights_s": seconds(middle, end),
        }

    def _update(self, trained, resting, optimizer, clip, marks) -> None:
        train_only(trained, resting)
        loss = F.cross_entropy(self.network(self.images), self.classes)
        marks.append(_mark(self.device))
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
        optimizer.zero_grad()
        marks.append(_mark(self.device))


def _mark(device: torch.device):
    """A point in time; on CUDA one of the device's own, which costs no synchronisation."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))  # without it, of GPU 0
    return event


def _seconds(start, end) -> float:
    """Between two marks."""
    if isinstance(end, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000


class CountOperations(TorchDispatchMode):
    """Counts the tensor operations that reach a backend."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def run(sizes: list[str] | None = None, device: str = "cpu", repeats: int = 3) -> dict:
    """Measures `sizes` (all of `SIZES` if None) on `device`: the figures in the form that `bench --json` prints.

    Raises `LabError` naming the size or the device before anything runs.
    """
    chosen = list(SIZES) if sizes is None else sizes
    for size in chosen:
        one_of("size", size, SIZES)
    open_device(device)
    with keeping_freed_memory():
        return _measure(chosen, device, repeats)


def _measure(chosen: Sequence[str], device: str, repeats: int) -> dict:
    result: dict = {"sizes": {}, "machine": describe_machine(device)}
    for size in chosen:
        config = SIZES[size]()
        steps = {form: Step(config, form, device) for form in FORMS}
        figures: dict = {form: {} for form in FORMS}
        for form, step in steps.items():  # a warm-up too
            with CountOperations() as counter:
                step()
            figures[form]["dispatched_ops"] = counter.count
        times: dict[str, list] = {form: [] for form in FORMS}
        for _ in range(repeats):
            for form, step in steps.items():
                times[form].append(step())
        for form in FORMS:
            figures[form] |= {key: statistics.median(t[key] for t in times[form]) for key in times[form][0]}
        figures["convolutions_s"] = convolution_seconds(steps["textbook"], repeats)
        figures["batches_s"] = batch_seconds(config, steps["fast"], max(3, repeats))
        figures["gap_s"] = gap_seconds(config, steps["fast"], repeats)
        del steps, step
        figures["derived"] = derived_seconds(DERIVED[size](), device, repeats)
        for form in FORMS:
            figures[form]["peak_bytes"] = peak_bytes(size, form, device)
        result["sizes"][size] = figures
    return result


def batch_seconds(config: SearchConfig, step: Step, repeats: int) -> float:
    """Seconds of the two batches of a step: shuffled, cropped, flipped and normalised on the device."""
    images = _random_images(config, 1000 + config.batch_size, step.device)
    batches = training_batches(
        images,
        batch_size=config.batch_size,
        steps=2 * (repeats + 1),
        generator=torch.Generator(step.device).manual_seed(0),
        crop_padding=config.crop_padding,
        flip=config.flip,
    )
    pairs = [_time(lambda: (next(batches), next(batches)), step.device) for _ in range(repeats + 1)]
    return statistics.median(pairs[1:])  # the first one also pads the set and draws its order


def gap_seconds(config: SearchConfig, step: Step, repeats: int) -> float:
    """Seconds of the gap while searching for one budget on `GAP_IMAGES` images: accuracy before and after the cut."""
    images = _random_images(config, GAP_IMAGES, step.device)

    def measure() -> None:
        accuracy_drops(
            step.network,
            config,
            images,
            images,
            [config.budget],
            edge_weights=["learned"],
            batch_norms=["as-trained"],
            stages=["both"],
        )

    return statistics.median(_time(measure, step.device) for _ in range(repeats))


def _random_images(config: SearchConfig, count: int, device: torch.device) -> ImageSet:
    pixels = torch.randint(256, (count, config.side, config.side, config.image_channels), dtype=torch.uint8)
    return ImageSet(pixels, torch.zeros(count, dtype=torch.int64), *torch.ones(2, config.image_channels)).to(device)


def derived_seconds(config: RetrainConfig, device: str, repeats: int) -> dict[str, float]:
    """Seconds of a retraining step of the derived network: of torch's own convolutions, and of the fast form."""
    shape = (config.batch_size, config.image_channels, config.side, config.side)
    images = torch.randn(shape, device=device)
    classes = torch.randint(config.classes, (config.batch_size,), device=device)
    steps = {}
    for form, build in (("textbook_s", plain_network), ("fast_s", build_network)):
        network = place(build(config), config, open_device(device))
        optimizer = torch.optim.SGD(network.parameters(), config.learning_rate, config.momentum)
        steps[form] = partial(_retrain, network, optimizer, images, classes, config.gradient_clip)
    times: dict[str, list] = {form: [] for form in steps}
    for _ in range(repeats + 1):
        for form, run_once in steps.items():
            times[form].append(_time(run_once, torch.device(device)))
    return {form: statistics.median(values[1:]) for form, values in times.items()}


def _retrain(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, classes: Tensor, clip: float
) -> None:
    outputs = network(images)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    optimizer.zero_grad()
    torch.autograd.backward([F.cross_entropy(logits, classes) for logits in outputs])
    nn.utils.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()


def convolution_seconds(step: Step, repeats: int) -> float:
    """The floor: seconds of all bare convolutions of a step, forward and backward, each in the fastest form known here.

    Both updates need the forward convolution, and its input gradient where something behind it is trained; the weight
    update needs the weight gradient too. Nothing else that a step does is counted.
    """
    modules = [module for module in step.network.modules() if isinstance(module, nn.Conv2d)]
    parts: Counter = Counter()

    def note(module, inputs, output):
        x = inputs[0]
        call = tuple(x.shape), module.weight.shape, module.stride[0], module.dilation[0], module.groups
        parts.update([(call, "forward")])
        parts.update([(call, "input")] if x.requires_grad else [])
        parts.update([(call, "weight")] if module.weight.requires_grad else [])

    hooks = [module.register_forward_hook(note) for module in modules]
    for trained, resting in ((step.architecture, step.weights), (step.weights, step.architecture)):
        train_only(trained, resting)
        step.network(step.images)
    for hook in hooks:
        hook.remove()
    calls = {call for call, _ in parts}
    with torch.no_grad():
        seconds = {call: _convolution_seconds(call, step, max(3, repeats)) for call in calls}
    return sum(count * seconds[call][part] for (call, part), count in parts.items())


def _convolution_seconds(call: tuple, step: Step, repeats: int) -> dict[str, float]:
    """Seconds of a convolution, of its input gradient and of its weight gradient."""
    shape, weight_shape, stride, dilation, groups = call
    weight = torch.randn(weight_shape, device=step.device)
    forms = [(shape, stride, dilation)]
    if dilation == 2 and shape[2] % 2 == 0 and shape[3] % 2 == 0:  # on sub-grids: all four, or with a stride only one
        batch = shape[0] * (4 if stride == 1 else 1)
        forms.append(((batch, shape[1], shape[2] // 2, shape[3] // 2), 1, 1))
    best = dict.fromkeys(("forward", "input", "weight"), float("inf"))
    for shape, stride, dilation in forms:
        x = kernels.as_pixels_last(torch.randn(shape, device=step.device))
        spread = dilation * (weight_shape[-1] // 2)
        options = [stride] * 2, [spread] * 2, [dilation] * 2
        g = torch.randn_like(F.conv2d(x, weight, None, *options, groups))

        def backward(*mask, x=x, g=g, options=options):
            torch.ops.aten.convolution_backward(g, x, weight, None, *options, False, [0, 0], groups, [*mask, False])

        candidates = [
            ("forward", partial(F.conv2d, x, weight, None, *options, groups)),
            ("input", partial(backward, True, False)),
            ("weight", partial(backward, False, True)),
        ]
        if groups == shape[1]:
            arguments = (x, g, weight, stride, dilation)
            candidates += [
                ("input", partial(kernels.depthwise_input_gradient, *arguments)),
                ("weight", partial(kernels.depthwise_weight_gradient, *arguments)),
            ]
        elif weight_shape[-1] == 1 and stride == 1:
            transposed = weight.transpose(0, 1).contiguous()
            candidates.append(("input", partial(F.conv2d, g, transposed)))
        for part, run_once in candidates:
            run_once()
            best[part] = min(best[part], statistics.median(_time(run_once, step.device) for _ in range(repeats)))
    return best


def _time(run_once: Callable[[], object], device: torch.device) -> float:
    start = _mark(device)
    run_once()
    return _seconds(start, _mark(device))


def peak_bytes(size: str, form: str, device: str) -> int:
    """Peak memory of two steps in a fresh process (on CUDA: of the device's allocator)."""
    command = [sys.executable, "-m", "daas_lab.studies.bench", size, form, device, str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        killed = f"killed by signal {-done.returncode}, as what takes too much memory is"
        said = killed if done.returncode < 0 else done.stderr.strip().rpartition("\n")[2]
        raise LabError(f"size = {size!r}: the memory of its {form} form cannot be measured: {said}")
    return int(done.stdout)


def _own_peak_bytes(size: str, form: str, device: str) -> int:
    step = Step(SIZES[size](), form, device)
    step(), step()
    return peak_memory(step.device)


def describe_machine(device: str) -> dict:
    """What the figures depend on."""
    facts = {
        "cpu": machine()["processor"],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return facts | ({"gpu": torch.cuda.get_device_name(device)} if device.startswith("cuda") else {})


def format_table(result: dict) -> str:
    """The figures of `run` as text: one line a size and form, with ratios to the textbook form and to the floor."""
    head = ("size", "form", "step s", "forward", "architecture", "weights", "× faster", "peak MB", "memory")
    rows = [(*head, "operations", "of them", "step / floor")]
    for size, figures in result["sizes"].items():
        base, floor = figures["textbook"], figures["convolutions_s"]
        for form in FORMS:
            f = figures[form]
            rows.append(
                (
                    size,
                    form,
                    *(f"{f[key]:.3f}" for key in ("step_s", "forward_s", "architecture_s", "weights_s")),
                    _ratio(base["step_s"], f["step_s"]),
                    f"{f['peak_bytes'] / 1e6:.0f}",
                    _ratio(f["peak_bytes"], base["peak_bytes"]),
                    str(f["dispatched_ops"]),
                    _ratio(f["dispatched_ops"], base["dispatched_ops"]),
                    _ratio(f["step_s"], floor),
                )
            )
        derived = figures["derived"]
        for name, seconds, ratio in (
            ("convolutions", floor, ""),
            ("batches", figures["batches_s"], ""),
            (f"gap, {GAP_IMAGES} images", figures["gap_s"], ""),
            ("derived textbook", derived["textbook_s"], ""),
            ("derived fast", derived["fast_s"], _ratio(derived["textbook_s"], derived["fast_s"])),
        ):
            rows.append((size, name, f"{seconds:.3f}", "", "", "", ratio, *[""] * 5))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([", ".join(f"{key} {value}" for key, value in result["machine"].items()), *lines])


def _ratio(value: float, base: float) -> str:
    return f"{value / base:.2f}" if base else "–"


def _print_own_peak(size: str, form: str, device: str, threads: str) -> None:
    """What `peak_bytes` asks a fresh process."""
    torch.set_num_threads(int(threads))
    with keeping_freed_memory():
        print(_own_peak_bytes(size, form, device))


if __name__ == "__main__":
    _print_own_peak(*sys.argv[1:])
