"""Layers of the derived network that compute what torch's do, faster: depthwise convolutions (kernels.py, identities 1
to 3), and what would leave gradients in a memory format in which all that they meet is slow: torch's batch-norm then
takes ten times as long on a CPU."""

from collections.abc import Sequence
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from daas_lab.networks import kernels
from daas_lab.networks.derived import Join
from daas_lab.space.operations import FactorizedReduce


class DepthwiseFunction(Function):
    """x [B, C, H, W], kernels [C, 1, k, k] → [B, C, H / stride, W / stride]."""

    @staticmethod
    def forward(ctx, x, weight, stride, dilation):
        x = kernels.as_pixels_last(x)
        ctx.save_for_backward(x, weight)
        ctx.options = stride, dilation
        return kernels.depthwise(x, weight, stride, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        arguments = x, kernels.as_pixels_last(g), weight, *ctx.options
        grad_x = kernels.depthwise_input_gradient(*arguments) if ctx.needs_input_grad[0] else None
        grad_weight = kernels.depthwise_weight_gradient(*arguments) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None, None


class Depthwise(nn.Conv2d):
    """`nn.Conv2d` with as many groups as channels, padded to keep the map's side; the same numbers."""

    def forward(self, x: Tensor) -> Tensor:
        stride, dilation = self.stride[0], self.dilation[0]
        if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        if dilation != 2 or x.shape[2] % 2 or x.shape[3] % 2:
            return DepthwiseFunction.apply(x, self.weight, stride, dilation)
        if stride == 2:
            return DepthwiseFunction.apply(x[:, :, ::2, ::2], self.weight, 1, 1)
        return kernels.from_subgrids(DepthwiseFunction.apply(kernels.to_subgrids(x), self.weight, 1, 1))


class CornersFunction(Function):
    """r [B, C, H, W] → its pixels of even row and column, and those of odd ones, [B, C, H / 2, W / 2] each."""

    @staticmethod
    def forward(ctx, r):
        ctx.shape = r.shape
        return tuple(kernels.as_pixels_last(r[:, :, a::2, a::2]) for a in (0, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx, *gs):
        grad = torch.empty(ctx.shape, dtype=gs[0].dtype, device=gs[0].device, memory_format=torch.channels_last).zero_()
        for a, g in enumerate(gs):
            grad[:, :, a::2, a::2] = g
        return grad


class FastReduce(FactorizedReduce):
    """`FactorizedReduce`, of maps of even side."""

    def forward(self, x: Tensor) -> Tensor:
        corners = CornersFunction.apply(self.relu(x))
        return self.norm(halves(corners, self.conv_1.weight, self.conv_2.weight))


class JoinFunction(Function):
    """Maps [B, C, H, W] → [B, maps C, H, W]."""

    @staticmethod
    def forward(ctx, *maps):
        ctx.channels = [x.shape[1] for x in maps]
        return torch.cat(maps, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return tuple(kernels.as_pixels_last(part) for part in g.split(ctx.channels, 1))


class FastJoin(Join):
    def forward(self, *nodes: Tensor) -> Tensor:
        return JoinFunction.apply(*nodes)


def halves(corners: Sequence[Tensor], *weights: Tensor) -> Tensor:
    """Both corners of a map [B, C, H / 2, W / 2], each by its own 1×1 convolution, side by side."""
    return torch.cat([F.conv2d(x, weight) for x, weight in zip(corners, weights, strict=True)], 1)


def _is_depthwise(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a convolution that `Depthwise` computes; one's own operations may have others."""
    if type(module) is not nn.Conv2d or module.bias is not None or module.padding_mode != "zeros":
        return False
    k, stride, dilation = (pair[0] for pair in (module.kernel_size, module.stride, module.dilation))
    square = (module.kernel_size, module.stride, module.dilation) == ((k, k), (stride, stride), (dilation, dilation))
    keeps_side = square and k % 2 == 1 and stride <= 2 and module.padding == (dilation * (k // 2),) * 2
    return keeps_side and module.groups == module.in_channels == module.out_channels > 1


FAST = {FactorizedReduce: FastReduce, Join: FastJoin}  # without numbers or parameters of their own
Net = TypeVar("Net", bound=nn.Module)


def speed_up(network: Net) -> Net:
    """`network` with square depthwise convolutions and the layers of `FAST` replaced, parameters and their names kept;
    channels_last."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if _is_depthwise(child):
                sizes = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
                options: dict[str, Any] = {name: getattr(child, name) for name in sizes}
                fast = Depthwise(**options, bias=False)
                fast.weight = child.weight
                setattr(parent, name, fast)
            elif fast_form := FAST.get(type(child)):
                child.__class__ = fast_form
    return network.to(memory_format=torch.channels_last)
