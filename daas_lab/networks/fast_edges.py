"""The edges that leave a node, forwards and backwards: their convolutions in groups, their pools and skips together.

Legend: B batch, C channels that pass through operations, H = W side, n edges that leave one node and run together.

Nothing here knows of autograd; `fast_cell.py` puts the parts together.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from daas_lab.networks import kernels
from daas_lab.space.cell_space import PRIMITIVES

MAX_POOL, AVERAGE_POOL, SKIP, SEP_3, SEP_5, DIL_3, DIL_5 = range(len(PRIMITIVES))

_aten = torch.ops.aten


# --- grouped maps and maps by node ------------------------------------------------------------------------------------


def as_map(x: Tensor) -> Tensor:
    """[B, H, W, C] → [B, C, H, W]."""
    return x.permute(0, 3, 1, 2)


def flat(x: Tensor) -> Tensor:
    """[B, C, H, W] in channels_last memory → [B H W C]."""
    return x.permute(0, 2, 3, 1).reshape(-1)


def by_node(x: Tensor, count: int) -> Tensor:
    """[B, n C, H, W] → [n, B, H, W, C]."""
    return x.permute(0, 2, 3, 1).unflatten(3, (count, -1)).permute(3, 0, 1, 2, 4)


def grouped(x: Tensor) -> Tensor:
    """[n, B, H, W, C] → [B, n C, H, W]."""
    if len(x) == 1:
        return as_map(x[0])
    return as_map(x.permute(1, 2, 3, 0, 4).flatten(3))


# --- the dilated convolutions of a node -------------------------------------------------------------------------------


class Dilated(NamedTuple):
    """How convolutions of dilation 2 read a node (kernels.py, 3): from which map, with which stride and dilation."""

    map: Tensor
    on_subgrids: bool = False
    stride: int = 1
    dilation: int = 1

    @classmethod
    def of(cls, r: Tensor, stride: int) -> "Dilated":
        if r.shape[2] % 2 or r.shape[3] % 2:
            return cls(r, False, stride, 2)
        if stride == 2:  # the output then sees one sub-grid only
            return cls(kernels.as_pixels_last(r[:, :, ::2, ::2]))
        return cls(kernels.to_subgrids(r), True)

    def add_gradient(self, g: Tensor, grad_r: Tensor) -> Tensor:
        """∂r, `grad_r` with the gradient g of `map` added to it."""
        if self.on_subgrids:
            return grad_r.add_(kernels.from_subgrids(g))
        if g.shape != grad_r.shape:
            grad_r[:, :, ::2, ::2].add_(g)
            return grad_r
        return grad_r.add_(g)


# --- convolutions of a few edges that leave the same node -------------------------------------------------------------


class Weights(NamedTuple):
    """Of n edges: kernels [n C, 1, k, k] of sep_1, sep_2 and dil for both k, and the pointwise matrices."""

    three: tuple[Tensor, ...]
    five: tuple[Tensor, ...]
    first: Tensor  # [2 n, C, C]: sep_1 with 3×3 and 5×5
    last: Tensor  # [4 n, C, C]: sep_2 with both, dil with both

    def cells(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """(3×3, 5×5) kernels of sep_1, of sep_2, and of dil."""
        return tuple(zip(self.three, self.five, strict=True))


def split_weights(three: Tensor, five: Tensor, pointwise: Tensor, sizes: list[int]) -> list[Weights]:
    """The stacks of a cell (fast_supernet.py) for groups of `sizes` edges."""
    C = pointwise.shape[1]
    stacks = []
    for k, stack in ((3, three), (5, five)):
        kinds = (kind.split([n * C for n in sizes]) for kind in stack.view(3, -1, 1, k, k).unbind())
        stacks.append(tuple(zip(*kinds, strict=True)))
    first, last = (
        [part.flatten(0, 1) for part in kinds.split(sizes, dim=1)]
        for kinds in pointwise.view(6, -1, C, C).split([2, 4])
    )
    return [Weights(*parts) for parts in zip(*stacks, first, last, strict=True)]


def convolve(r: Tensor, dilated: Dilated, weights: Weights, gains: Tensor, stride: int, eps: float):
    """gains [4, n] → what enters the nodes [B, n C, H, W]: plainly, and as `dilated` reads it; statistics; kept."""
    n = gains.shape[1]
    normalise = kernels.normalisation(r, r.shape[1])
    sep_1, sep_2, dil = weights.cells()
    x = kernels.copies(r, n)
    maps = [kernels.depthwise(x, kernel, stride) for kernel in sep_1]
    middle, *statistics_1, kept_1 = normalise.forward(maps, weights.first, None, eps)
    middle = tuple(u.relu_() for u in middle)
    maps = last_inputs(middle, kernels.copies(dilated.map, n), dilated, sep_2, dil)
    outputs, *statistics_2, kept_2 = normalise.forward(maps, weights.last, gains, eps)
    statistics = torch.stack([torch.cat(pair) for pair in zip(statistics_1, statistics_2, strict=True)])
    return outputs[0].add_(outputs[1]), outputs[2].add_(outputs[3]), statistics, (middle, kept_1, kept_2)


def last_inputs(middle: tuple[Tensor, ...], y: Tensor, dilated: Dilated, sep_2, dil) -> list[Tensor]:
    """What the last pointwise convolutions read."""
    maps = [kernels.depthwise(u, kernel) for u, kernel in zip(middle, sep_2, strict=True)]
    return maps + [kernels.depthwise(y, kernel, dilated.stride, dilated.dilation) for kernel in dil]


class Wanted(NamedTuple):
    """Which gradients the backward pass is asked for."""

    inputs: bool
    weights: bool
    gains: bool


def convolve_backward(
    g: Tensor,
    g_dilated: Tensor,
    r: Tensor,
    dilated: Dilated,
    weights: Weights,
    kept: tuple,
    stride: int,
    wanted: Wanted,
):
    """→ ∂r without the dilated part, ∂ of the dilated map, ∂ kernels (3×3 [3, n C, 9], 5×5 [3, n C, 25]), ∂ pointwise
    [6, n, C, C], ∂ gains [4, n]; None for what is not wanted."""
    middle, kept_1, kept_2 = kept
    n = g.shape[1] // r.shape[1]
    normalise = kernels.normalisation(r, r.shape[1])
    sep_1, sep_2, dil = weights.cells()
    y = kernels.copies(dilated.map, n)
    maps = last_inputs(middle, y, dilated, sep_2, dil)
    deeper = wanted.inputs or wanted.weights
    gs, grad_last, grad_gains = normalise.backward(
        [g, g, g_dilated, g_dilated], maps, weights.last, kept_2, (deeper, wanted.weights, wanted.gains)
    )
    if not deeper:
        return None, None, None, None, None, grad_gains
    del maps
    x = kernels.copies(r, n)
    grad_sep_1, grad_sep_2, grad_dil = [], [], []
    grad_r = grad_y = None
    for g_y, kernel in zip(gs[2:], dil, strict=True):
        if wanted.weights:
            grad_dil.append(kernels.depthwise_weight_gradient(y, g_y, kernel, dilated.stride, dilated.dilation))
        if wanted.inputs:
            part = kernels.depthwise_input_gradient(y, g_y, kernel, dilated.stride, dilated.dilation)
            grad_y = part if grad_y is None else grad_y.add_(part)
    gs = gs[:2]
    for k, (u, kernel) in enumerate(zip(middle, sep_2, strict=True)):
        if wanted.weights:
            grad_sep_2.append(kernels.depthwise_weight_gradient(u, gs[k], kernel))
        gs[k] = kernels.depthwise_input_gradient(u, gs[k], kernel)
        _aten.threshold_backward.grad_input(gs[k], u, 0, grad_input=gs[k])
    maps = [kernels.depthwise(x, kernel, stride) for kernel in sep_1]
    gs, grad_first, _ = normalise.backward(gs, maps, weights.first, kept_1, (True, wanted.weights, False))
    for g_x, kernel in zip(gs, sep_1, strict=True):
        if wanted.weights:
            grad_sep_1.append(kernels.depthwise_weight_gradient(x, g_x, kernel, stride))
        if wanted.inputs:
            part = kernels.depthwise_input_gradient(x, g_x, kernel, stride)
            grad_r = part if grad_r is None else grad_r.add_(part)
    grad_three = grad_five = grad_pointwise = None
    if wanted.weights:
        grad_three, grad_five = (
            torch.stack(parts).flatten(2) for parts in zip(grad_sep_1, grad_sep_2, grad_dil, strict=True)
        )
        grad_pointwise = torch.cat([grad_first, grad_last]).unflatten(0, (6, n))
    if grad_r is not None and grad_y is not None:
        grad_r, grad_y = kernels.sum_copies(grad_r, n), kernels.sum_copies(grad_y, n)
    return grad_r, grad_y, grad_three, grad_five, grad_pointwise, grad_gains


# --- pools and skip ---------------------------------------------------------------------------------------------------


def pool(z: Tensor, gains: Tensor, sums: Tensor, stride: int, eps: float):
    """Adds the pools of z, normalised, and for stride 1 z itself, times gains [n, 2 or 3], to sums [n, B, H, W, C].

    Returns the batch statistics [2, 2, C] and what the backward pass needs.
    """
    largest, indices = _aten.max_pool2d_with_indices(z, [3, 3], [stride, stride], [1, 1])
    indices = indices.to(torch.int16 if z[0, 0].numel() < 2**15 else torch.int32)
    statistics = torch.zeros(2, 2, z.shape[1], dtype=kernels.statistics_dtype(z), device=z.device)
    (mean_0, mean_1), (variance_0, variance_1) = (part.unbind() for part in statistics.unbind())
    maps, scales = [], []
    for x, mean, variance in (
        (largest, mean_0, variance_0),
        (kernels.average_pool(z, stride), mean_1, variance_1),
    ):
        x, _, scale = torch.native_batch_norm(x, None, None, mean, variance, True, 1.0, eps)
        maps.append(flat(x))
        scales.append(scale)
    X = torch.stack([*maps, flat(z)] if stride == 1 else maps)
    sums.view(len(sums), -1).addmm_(gains.to(X.dtype), X)
    return statistics, (X, indices, *scales)


def pool_backward(gs: Tensor, z: Tensor, gains: Tensor, kept: tuple, stride: int, wanted: Wanted):
    """gs [n, B, H, W, C] → ∂z, ∂gains."""
    X, indices, *scales = kept
    g_rows = gs.view(len(gs), -1)
    grad_gains = torch.mm(g_rows, X.t()) if wanted.gains else None
    if not wanted.inputs:
        return None, grad_gains
    grad_maps = torch.mm(gains.t().to(X.dtype), g_rows).view(len(X), *gs.shape[1:]).unbind()
    maps = X.view(len(X), *gs.shape[1:]).unbind()
    zeros, ones = torch.zeros_like(scales[0]), torch.ones_like(scales[0])
    largest, average = (
        _aten.native_batch_norm_backward(
            as_map(g), as_map(x), scale, None, None, zeros, ones, True, 0.0, [True, False, False]
        )[0]
        for g, x, scale in zip(grad_maps, maps, scales, strict=False)
    )
    steps = [stride, stride]
    grad_z = _aten.max_pool2d_with_indices_backward(
        largest, z, [3, 3], steps, [1, 1], [1, 1], False, indices.to(torch.int64)
    )
    grad_z.add_(kernels.average_pool_backward(average, z, stride))
    if stride == 1:
        grad_z.add_(as_map(grad_maps[2]))
    return grad_z, grad_gains


def skip_maps(r: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The factorised reductions of n edges before their batch-norm, [B, n C, H / 2, W / 2].

    `first` [n, C // 2, C] reads the even pixels of r, `second` [n, C − C // 2, C] the odd ones.
    """
    corners = (kernels.as_pixels_last(r[:, :, ::2, ::2]), kernels.as_pixels_last(r[:, :, 1::2, 1::2]))
    halves = [
        F.conv2d(x, weight.flatten(0, 1)[..., None, None]).unflatten(1, (len(weight), -1))
        for x, weight in zip(corners, (first, second), strict=True)
    ]
    return kernels.as_pixels_last(torch.cat(halves, 2).flatten(1, 2))


def reduce_skips(r: Tensor, first: Tensor, second: Tensor, gains: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The same normalised, times gains [n]; mean and variance [n C]."""
    y = skip_maps(r, first, second)
    gains = gains.to(kernels.statistics_dtype(y)).repeat_interleave(y.shape[1] // len(gains))
    mean, variance = torch.zeros(2, y.shape[1], dtype=gains.dtype, device=y.device)
    return F.batch_norm(y, mean, variance, gains, None, True, 1.0, eps), mean, variance


def again(function, inputs: list[Tensor], wanted: list[bool], g: Tensor) -> list[Tensor | None]:
    """∂inputs of a part that is too small for a backward pass of its own: its first result is computed once more."""
    if not any(wanted):
        return [None] * len(inputs)
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_(want) for x, want in zip(inputs, wanted, strict=True)]
        output, *_ = function(*inputs)
        asked = [x for x in inputs if x.requires_grad]
        grads = iter(torch.autograd.grad(output, asked, g))
    return [next(grads) if want else None for want in wanted]
