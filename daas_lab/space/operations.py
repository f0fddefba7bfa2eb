"""Candidate operations: the one table of name → module, and one's own beside it.

Shapes: every operation maps [B, C, H, W] to [B, C, H / stride, W / stride]. `affine` is that of its batch-norms: False
in the super-network, whose architecture weights take the part of the gain, True in a derived network.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daas_lab.errors import LabError, refuse
from daas_lab.own_files import is_own, load_own, named_own
from daas_lab.space.cell_space import (
    CELL_TYPES,
    SKIP,
    WITH_SKIP,
    operation_name,
    own_operations,
    split_operations,
)
from daas_lab.space.genotype import Genotype

# --- modules ----------------------------------------------------------------------------------------------------------


def relu_conv_norm(channels_in: int, channels_out: int, affine: bool) -> nn.Sequential:
    """ReLU, 1×1 convolution, batch-norm: brings a cell's input to the cell's width."""
    return _named(
        relu=nn.ReLU(),
        conv=nn.Conv2d(channels_in, channels_out, 1, bias=False),
        norm=nn.BatchNorm2d(channels_out, affine=affine),
    )


class Halving(nn.Conv2d):
    """A 1×1 convolution of stride 2. Of fewer than 8 channels the pixels are chosen first: with the stride in the
    convolution the weight gradient of torch's CPU kernel (2.14, AVX2) writes past its memory, and the process dies
    somewhere later."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.in_channels >= 8 else F.conv2d(x[:, :, ::2, ::2], self.weight)


class FactorizedReduce(nn.Module):
    """Halves the side by two 1×1 convolutions of stride 2, one of them on the map shifted by a pixel."""

    def __init__(self, channels_in: int, channels_out: int, affine: bool):
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = Halving(channels_in, channels_out // 2, 1, stride=2, bias=False)
        self.conv_2 = Halving(channels_in, channels_out - channels_out // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(channels_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.norm(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1))


def preprocessing(
    channels_in: tuple[int, int], channels: int, before_reduces: bool, affine: bool
) -> tuple[nn.Module, nn.Module]:
    """What brings the outputs of the two cells before to a cell's width, and to one side: the first of them is twice as
    wide where the cell before reduces."""
    first = FactorizedReduce if before_reduces else relu_conv_norm
    return first(channels_in[0], channels, affine), relu_conv_norm(channels_in[1], channels, affine)


class Zero(nn.Module):
    """Zeros in the shape that the operations beside it have."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def _depthwise(channels: int, kernel: int, stride: int, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)


def _pointwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 1, bias=False)


def _max_pool(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.MaxPool2d(3, stride, 1)


def _average_pool(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.AvgPool2d(3, stride, 1, count_include_pad=False)


def _skip_connect(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


def _sep_conv(kernel: int):
    """Depthwise and pointwise convolution, twice; only the first pair strides."""
    return lambda channels, stride, affine: _named(
        relu_1=nn.ReLU(),
        depthwise_1=_depthwise(channels, kernel, stride),
        pointwise_1=_pointwise(channels),
        norm_1=nn.BatchNorm2d(channels, affine=affine),
        relu_2=nn.ReLU(),
        depthwise_2=_depthwise(channels, kernel, 1),
        pointwise_2=_pointwise(channels),
        norm_2=nn.BatchNorm2d(channels, affine=affine),
    )


def _dil_conv(kernel: int):
    """Depthwise convolution of dilation 2, then pointwise."""
    return lambda channels, stride, affine: _named(
        relu=nn.ReLU(),
        depthwise=_depthwise(channels, kernel, stride, dilation=2),
        pointwise=_pointwise(channels),
        norm=nn.BatchNorm2d(channels, affine=affine),
    )


def _conv_pair(kernel: int):
    """A full convolution along the rows, then one along the columns."""
    return lambda channels, stride, affine: _named(
        relu=nn.ReLU(),
        conv_1=nn.Conv2d(channels, channels, (1, kernel), (1, stride), (0, kernel // 2), bias=False),
        conv_2=nn.Conv2d(channels, channels, (kernel, 1), (stride, 1), (kernel // 2, 0), bias=False),
        norm=nn.BatchNorm2d(channels, affine=affine),
    )


class _AndSkip(nn.ModuleDict):
    """o(x) + skip(x); a pool's output is normalised, so that both are of one scale."""

    def __init__(self, name: str, channels: int, stride: int, affine: bool):
        parts = {"operation": make_operation(name, channels, stride, affine)}
        if OPERATIONS[name].pools:
            parts["norm"] = nn.BatchNorm2d(channels, affine=affine)
        super().__init__({"branch": _named(**parts), "skip": _skip_connect(channels, stride, affine)})

    def forward(self, x: Tensor) -> Tensor:
        return self["branch"](x) + self["skip"](x)


# --- the table --------------------------------------------------------------------------------------------------------


class Operation(NamedTuple):
    """What a name stands for."""

    make: Callable[[int, int, bool], nn.Module]  # (channels, stride, affine) → the module
    colour: str  # in pictures
    free: bool = False  # of parameters, where its stride is 1
    pools: bool = False  # has no batch-norm of its own, and gets one in the super-network


# Colours are told apart with protanopia, deuteranopia and tritanopia alike (a test simulates them): pools warm,
# separable convolutions blue.
OPERATIONS = {
    "max_pool_3x3": Operation(_max_pool, "#E69F00", free=True, pools=True),
    "avg_pool_3x3": Operation(_average_pool, "#D55E00", free=True, pools=True),
    SKIP: Operation(_skip_connect, "#444444", free=True),
    "sep_conv_3x3": Operation(_sep_conv(3), "#0072B2"),
    "sep_conv_5x5": Operation(_sep_conv(5), "#56B4E9"),
    "dil_conv_3x3": Operation(_dil_conv(3), "#009E73"),
    "dil_conv_5x5": Operation(_dil_conv(5), "#CC79A7"),
    "sep_conv_7x7": Operation(_sep_conv(7), "#332288"),
    "conv_7x1_1x7": Operation(_conv_pair(7), "#999933"),
    "conv_3x1_1x3": Operation(_conv_pair(3), "#440044"),
    "none": Operation(lambda channels, stride, affine: Zero(stride), "#C4C4C4", free=True),
}
OPERATIONS |= {
    f"{name}_and_skip": Operation(functools.partial(_AndSkip, name), operation.colour)
    for name, operation in OPERATIONS.items()
    if f"{name}_and_skip" in WITH_SKIP
}
OWN_COLOURS = ("#8800EE", "#662200", "#AAEEAA", "#8866EE", "#000000")  # in the order in which they were named


def make_operation(name: str, channels: int, stride: int, affine: bool) -> nn.Module:
    """The operation `name` of the table."""
    return OPERATIONS[name].make(channels, stride, affine)


def make_candidate(name: str, channels: int, stride: int, affine: bool = False) -> nn.Module:
    """An operation as the super-network mixes it: a pool is followed by batch-norm."""
    operation = make_operation(name, channels, stride, affine)
    if OPERATIONS[name].pools:
        return _named(pool=operation, norm=nn.BatchNorm2d(channels, affine=affine))
    return operation


def operation_colour(name: str) -> str:
    """The colour of an operation in every picture."""
    return OPERATIONS[name].colour


# --- one's own --------------------------------------------------------------------------------------------------------


def parse_operations(text: str) -> tuple[str, ...]:
    """The names of a set of operations (`cell_space`); one's own are loaded, tried, and from now on in the table.

    A file is executed: only what the user named himself belongs here. Of two functions of one name the one that was
    named last counts.
    """
    parts = split_operations(text)
    for part in filter(is_own, parts):
        _register(part, load_own("operations", part))
    return tuple(map(operation_name, parts))


def load_operations(text: str, digest: str = "") -> None:
    """Load and try one's own among operations of a cell or a set; with its `operations_digest` no other content."""
    digests = iter(digest.split(",") if digest else ())
    for part in filter(is_own, text.split(",")):
        _register(part, load_own("operations", part, next(digests, "")))


def own_texts(genotype: Genotype) -> list[str]:
    """FILE.py:function of each of one's own operations that cells have, by its name."""
    used = {edge.operation for name in CELL_TYPES for edge in genotype.cell(name).edges}
    return [text for name, text in sorted(own_operations.items()) if name in used]


def named_operations(text: str, digest: str) -> tuple[str, ...]:
    """The same for a set that a run's folder remembers, with its `operations_digest`: nothing is executed, and one's
    own operations must have been named in this process."""
    parts, digests = split_operations(text), iter(digest.split(","))
    for part in filter(is_own, parts):
        _register(part, named_own("operations", part, next(digests)))
    return tuple(map(operation_name, parts))


def _register(part: str, make: Callable[[int, int, bool], nn.Module]) -> None:
    name = operation_name(part)
    if name not in OPERATIONS or OPERATIONS[name].make is not make:
        free = _try_out(part, make, TRIED_CHANNELS)
        place = list(own_operations).index(name) if name in own_operations else len(own_operations)
        OPERATIONS[name] = Operation(make, OWN_COLOURS[place % len(OWN_COLOURS)], free)
    own_operations[name] = part


TRIED_CHANNELS = 240  # when an operation is named, for most groups divide it; those of a configuration when it is made


def try_operations(operations: Iterable[str], channels: int) -> None:
    """Raise unless each of one's own among `operations`, FILE.py:function, works in all cells of a network whose first
    ones have so many channels: every reduction doubles them."""
    for part, times in product(filter(is_own, operations), (1, 2, 4)):
        _try_out(part, OPERATIONS[operation_name(part)].make, times * channels)


def _try_out(part: str, make: Callable[[int, int, bool], nn.Module], channels: int) -> bool:
    """Raise unless the function makes an operation; returns whether that has no parameters at stride 1.

    Torch's random numbers go on as if nothing had been drawn.
    """
    if hasattr(nn.ModuleDict, operation_name(part)):
        raise refuse("operations", part, "a function of another name: torch has it for something else")
    B, C, side, free = 2, channels, 8, True
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for stride in (1, 2):
            for affine in (False, True):
                case = f"{C} channels, stride {stride}, affine {affine}"
                try:
                    module = make(C, stride, affine)
                    if not isinstance(module, nn.Module):
                        raise TypeError(f"it returned a {type(module).__name__}, no torch.nn.Module")
                    x = torch.randn(B, C, side, side)
                    z = module(given := x.clone())
                except Exception as error:
                    raise LabError(f"operations = {part!r}: fails with {case}: {_line(error)}") from error
                shape = (B, C, side // stride, side // stride)
                found = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
                if found != shape:
                    raise LabError(
                        f"operations = {part!r}: with {case} it makes {found} of {(B, C, side, side)}, "
                        f"must make {shape}"
                    )
                if not torch.equal(given, x):  # which other operations read too
                    raise LabError(f"operations = {part!r}: with {case} it changes its input (inplace=True?)")
                if not z.isfinite().all():
                    raise LabError(f"operations = {part!r}: with {case} it makes numbers that are not finite")
                free = free and (stride == 2 or not any(True for _ in module.parameters()))
    return free


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
