"""Candidate operations: name → module.

Shapes: every operation maps [B, C, H, W] to [B, C, H / stride, W / stride]. `affine` is that of its batch-norms: False
in the super-network, whose architecture weights take the part of the gain, True in a derived network.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn


def relu_conv_norm(channels_in: int, channels_out: int, affine: bool) -> nn.Sequential:
    """ReLU, 1×1 convolution, batch-norm: brings a cell's input to the cell's width."""
    return _named(
        relu=nn.ReLU(),
        conv=nn.Conv2d(channels_in, channels_out, 1, bias=False),
        norm=nn.BatchNorm2d(channels_out, affine=affine),
    )


class FactorizedReduce(nn.Module):
    """Halves the side by two 1×1 convolutions of stride 2, one of them on the map shifted by a pixel."""

    def __init__(self, channels_in: int, channels_out: int, affine: bool):
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(channels_in, channels_out // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(channels_in, channels_out - channels_out // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(channels_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.norm(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1))


def make_operation(name: str, channels: int, stride: int, affine: bool) -> nn.Module:
    """The operation `name` of `PRIMITIVES` or `EXTRA_PRIMITIVES` (cell_space.py)."""
    return _OPERATIONS[name](channels, stride, affine)


def make_candidate(name: str, channels: int, stride: int) -> nn.Module:
    """An operation as the super-network mixes it: without affine parameters, a pool followed by batch-norm."""
    operation = make_operation(name, channels, stride, affine=False)
    if "pool" in name:
        return _named(pool=operation, norm=nn.BatchNorm2d(channels, affine=False))
    return operation


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def _depthwise(channels: int, kernel: int, stride: int, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)


def _pointwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 1, bias=False)


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


def _conv_7x1_1x7(channels: int, stride: int, affine: bool) -> nn.Sequential:
    return _named(
        relu=nn.ReLU(),
        conv_1=nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False),
        conv_2=nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False),
        norm=nn.BatchNorm2d(channels, affine=affine),
    )


def _skip_connect(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


_OPERATIONS = {
    "max_pool_3x3": lambda channels, stride, affine: nn.MaxPool2d(3, stride, 1),
    "avg_pool_3x3": lambda channels, stride, affine: nn.AvgPool2d(3, stride, 1, count_include_pad=False),
    "skip_connect": _skip_connect,
    "sep_conv_3x3": _sep_conv(3),
    "sep_conv_5x5": _sep_conv(5),
    "sep_conv_7x7": _sep_conv(7),
    "dil_conv_3x3": _dil_conv(3),
    "dil_conv_5x5": _dil_conv(5),
    "conv_7x1_1x7": _conv_7x1_1x7,
}
