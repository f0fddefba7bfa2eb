"""Step time and peak memory of the super-network on this machine: textbook form, fast form, fast with checkpointing.

A step is the search's first-order step: one architecture update (backward pass to α and β only, Adam), then one weight
update (backward pass to the weights only, gradient norm clipped, SGD). The forms are measured in turn within one run,
medians are reported; peak memory is that of a fresh process for each form. The floor is what the convolutions alone
take, each as torch runs it on its own in channels_last: forward and backward of both updates.
"""

import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from daas_lab import supernet, textbook
from daas_lab.config import SearchConfig, search_config
from daas_lab.errors import one_of
from daas_lab.provenance import machine
from daas_lab.relaxations import make_relaxation
from daas_lab.distributed import open_device
from daas_lab.training import train_only

SIZES = {
    "full": lambda: search_config("full", "cifar10"),
    "half": lambda: search_config("full", "cifar10", side=16),
    "mini": lambda: search_config("mini", "fashion_mnist"),
    "tiny": lambda: search_config("tiny", "digits"),
}
FORMS = ("textbook", "fast", "checkpointed")


class Step:
    """One form of the super-network with its optimisers and a random batch; a call runs one step."""

    def __init__(self, config: SearchConfig, form: str, device: str):
        torch.manual_seed(0)
        self.device = torch.device(device)
        relaxation = make_relaxation(config)
        if form == "textbook":
            network = textbook.SuperNetwork(config, relaxation)
        else:
            network = supernet.SuperNetwork(config, relaxation, checkpointed=form == "checkpointed")
        self.network = network.to(self.device)
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
        marks = [self._mark()]
        self._update(self.architecture, self.weights, self.adam, None, marks)
        self._update(self.weights, self.architecture, self.sgd, self.clip, marks)
        start, forward, middle, _, end = marks
        seconds = self._seconds
        return {
            "step_s": seconds(start, end),
            "forward_s": seconds(start, forward),
            "architecture_s": seconds(start, middle),
            "weights_s": seconds(middle, end),
        }

    def _update(self, trained, resting, optimizer, clip, marks) -> None:
        train_only(trained, resting)
        loss = F.cross_entropy(self.network(self.images), self.classes)
        marks.append(self._mark())
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
        optimizer.zero_grad()
        marks.append(self._mark())

    def _mark(self):
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, start, end) -> float:
        if self.device.type != "cuda":
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
        del steps, step
        for form in FORMS:
            figures[form]["peak_bytes"] = peak_bytes(size, form, device)
        result["sizes"][size] = figures
    return result


def convolution_seconds(step: Step, repeats: int) -> float:
    """The floor: seconds of all bare convolutions of a step, each as one call of torch in channels_last.

    Both updates need the forward convolution and its input gradient, the weight update the weight gradient too.
    """
    calls: Counter = Counter()

    def note(module, inputs, output):
        shape = tuple(inputs[0].shape)
        calls[shape, module.weight.shape, module.stride, module.padding, module.dilation, module.groups] += 1

    modules = [module for module in step.network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_hook(note) for module in modules]
    with torch.no_grad():
        step.network(step.images)
    for hook in hooks:
        hook.remove()
    return sum(count * _convolution_seconds(call, step, repeats) for call, count in calls.items())


def _convolution_seconds(call: tuple, step: Step, repeats: int) -> float:
    shape, weight_shape, stride, padding, dilation, groups = call
    x = torch.randn(shape, device=step.device).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(weight_shape, device=step.device).contiguous(memory_format=torch.channels_last)
    g = torch.empty_like(F.conv2d(x, weight, None, stride, padding, dilation, groups)).normal_()

    def once(mask: list[bool]) -> None:
        F.conv2d(x, weight, None, stride, padding, dilation, groups)
        torch.ops.aten.convolution_backward(g, x, weight, None, stride, padding, dilation, False, [0, 0], groups, mask)

    def both() -> float:
        start = step._mark()
        once([True, False, False])
        once([True, True, False])
        return step._seconds(start, step._mark())

    with torch.no_grad():
        both()
        return statistics.median(both() for _ in range(max(3, repeats)))


def peak_bytes(size: str, form: str, device: str) -> int:
    """Peak memory of two steps in a fresh process (on CUDA: of the device's allocator)."""
    command = [sys.executable, "-m", "daas_lab.bench", size, form, device, str(torch.get_num_threads())]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _own_peak_bytes(size: str, form: str, device: str) -> int:
    step = Step(SIZES[size](), form, device)
    step(), step()
    if step.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    # Not getrusage: its maximum is handed on by the process that started this one.
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    import resource

    factor = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor


def describe_machine(device: str) -> dict:
    """What the figures depend on."""
    facts = {
        "cpu": machine()["processor"],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return facts | ({"gpu": torch.cuda.get_device_name()} if device.startswith("cuda") else {})


def format_table(result: dict) -> str:
    """The figures of `run` as text: one line a size and form, with ratios to the textbook form and to the floor."""
    head = (
        "size",
        "form",
        "step s",
        "forward",
        "architecture",
        "weights",
        "× faster",
        "peak MB",
        "memory",
        "operations",
    )
    rows = [(*head, "of them", "step / floor")]
    for size, figures in result["sizes"].items():
        base, floor = figures["textbook"], figures["convolutions_s"]
        for form in FORMS:
            f = figures[form]
            rows.append(
                (
                    size,
                    form,
                    *(f"{f[key]:.3f}" for key in ("step_s", "forward_s", "architecture_s", "weights_s")),
                    f"{base['step_s'] / f['step_s']:.2f}",
                    f"{f['peak_bytes'] / 1e6:.0f}",
                    f"{f['peak_bytes'] / base['peak_bytes']:.2f}",
                    str(f["dispatched_ops"]),
                    f"{f['dispatched_ops'] / base['dispatched_ops']:.2f}",
                    f"{f['step_s'] / floor:.2f}",
                )
            )
        rows.append((size, "convolutions", f"{floor:.3f}", *[""] * 9))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([", ".join(f"{key} {value}" for key, value in result["machine"].items()), *lines])


def _print_own_peak(size: str, form: str, device: str, threads: str) -> None:
    """What `peak_bytes` asks a fresh process."""
    torch.set_num_threads(int(threads))
    print(_own_peak_bytes(size, form, device))


if __name__ == "__main__":
    _print_own_peak(*sys.argv[1:])
