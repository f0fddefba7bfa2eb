"""Several processes that train one network under `torchrun`; in one process every function here does nothing.

The only module that touches torch.distributed. Processes see the same batches in the same order, each its part of them,
and start from the same seeds, so nothing but gradients, sums and a checkpoint ever travels.
"""

import contextlib
import ctypes
import logging
import os
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from daas_lab.errors import LabError, refuse
from daas_lab.runs.lock import BeingWritten


@contextlib.contextmanager
def processes(device_name: str) -> Iterator[torch.device]:
    """Join the other processes that torchrun started, if it did, and give this one's device; leave them at the end.

    `cuda` is the GPU of this process's local rank. Raises `LabError` if this machine has no such device.
    """
    if device_name == "cuda" and started_by_torchrun():
        device_name = f"cuda:{os.environ['LOCAL_RANK']}"
    device = open_device(device_name)
    joins = started_by_torchrun() and not dist.is_initialized()
    if joins:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        if joins:
            dist.destroy_process_group()


def launch(count: int, function: Callable, *arguments: Any) -> None:
    """Call `function` in `count` processes of this machine, started as torchrun starts them; in this one if it is one.

    `function` is a module's, and `arguments` can be pickled. Raises `LabError` with what the first that failed says.
    """
    if count == 1:
        function(*arguments)
        return
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=uuid.uuid4().hex,
        max_restarts=0,
    )
    logging.disable(logging.ERROR)  # of pages, where a process fails: what it says is raised here
    try:
        elastic_launch(config, function)(*arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        said = failure.message if isinstance(failure.message, str) else failure.message["message"]
        said = " ".join(said.split())
        if said.startswith(waited := f"{BeingWritten.__name__}: "):  # for which a caller may wait
            raise BeingWritten(said.removeprefix(waited)) from None
        said = said.removeprefix(f"{LabError.__name__}: ")
        raise LabError(f"process {rank} of {count}: {said}") from None
    finally:
        logging.disable(logging.NOTSET)


def open_device(name: str) -> torch.device:
    """The device, or `LabError` if this machine has none of that name."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a device that computes: not meta
    except (RuntimeError, AssertionError) as error:
        raise refuse("device", name, f"a device of this machine ({str(error).splitlines()[0]})") from error
    return device


@contextlib.contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Inside, glibc holds on to what is freed: else every step on a CPU asks the system for the same pages again, a
    tenth of the time of a small step. At the end it is given back. With another C library nothing happens."""
    trim_threshold, mmap_threshold, usual = -1, -3, 128 * 1024  # malloc.h
    c_library = None
    with contextlib.suppress(OSError, AttributeError):
        c_library = ctypes.CDLL("libc.so.6")
        c_library.mallopt(trim_threshold, -1)  # never
        c_library.mallopt(mmap_threshold, 2**25)  # the most that it takes
    try:
        yield
    finally:
        if c_library is not None:
            c_library.mallopt(trim_threshold, usual)
            c_library.mallopt(mmap_threshold, usual)
            c_library.malloc_trim(0)


def started_by_torchrun() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share() -> tuple[int, int]:
    """(this process's number, how many there are): its part of what they divide."""
    return rank(), world_size()


def is_main() -> bool:
    """Whether this is the process that writes and shows."""
    return rank() == 0


def from_main(value: Any) -> Any:
    """Process 0's `value` (tensors on the CPU and plain Python), in every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def sum_over_processes(tensor: Tensor) -> Tensor:
    """`tensor` becomes its sum over all processes; returns it."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def average(tensors: Iterable[Tensor | None]) -> None:
    """Every tensor becomes its mean over the processes, in one message for each type of number."""
    if not dist.is_initialized():
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        if tensor is not None and tensor.is_floating_point():
            by_type.setdefault(tensor.dtype, []).append(tensor)
    for group in by_type.values():
        flat = sum_over_processes(torch.cat([tensor.reshape(-1) for tensor in group])) / world_size()
        for tensor, mean in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def parallel(network: nn.Module, some_rest: bool = False) -> nn.Module:
    """`network`, in several processes with the mean of their gradients after each backward pass.

    `some_rest`: not all of its parameters take part. Batch-norm's running statistics stay each process's own until
    `average` is asked for them.
    """
    if not dist.is_initialized():
        return network
    with warnings.catch_warnings():  # the argument has a new name, which the oldest torch we run on does not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(network, broadcast_buffers=False, find_unused_parameters=some_rest)


def without_averaging(network: nn.Module, accumulates: bool) -> contextlib.AbstractContextManager:
    """Where gradients only add up until a later backward pass, of a network made by `parallel`."""
    if accumulates and isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return contextlib.nullcontext()
