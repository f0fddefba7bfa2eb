"""Depthwise convolutions of the derived network, as fast as the super-network's (kernels.py, identities 1 to 3)."""

from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from daas_lab.networks import kernels


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


def _is_depthwise(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a convolution that `Depthwise` computes; one's own operations may have others."""
    if type(module) is not nn.Conv2d or module.bias is not None or module.padding_mode != "zeros":
        return False
    k, stride, dilation = (pair[0] for pair in (module.kernel_size, module.stride, module.dilation))
    square = (module.kernel_size, module.stride, module.dilation) == ((k, k), (stride, stride), (dilation, dilation))
    keeps_side = square and k % 2 == 1 and stride <= 2 and module.padding == (dilation * (k // 2),) * 2
    return keeps_side and module.groups == module.in_channels == module.out_channels > 1


Net = TypeVar("Net", bound=nn.Module)


def speed_up(network: Net) -> Net:
    """`network` with its square depthwise convolutions replaced, parameters and their names kept; channels_last."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if _is_depthwise(child):
                sizes = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
                options: dict[str, Any] = {name: getattr(child, name) for name in sizes}
                fast = Depthwise(**options, bias=False)
                fast.weight = child.weight
                setattr(parent, name, fast)
    return network.to(memory_format=torch.channels_last)
