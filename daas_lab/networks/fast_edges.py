"""The edges that leave a node, forwards and backwards: their convolutions in groups, their pools and skips together.

Legend: B batch, C channels that pass through operations, H = W side, n edges that leave one node and run together.

Of the edges of a group each operation has its own n (fast_plan.py).

Nothing here knows of autograd; `fast_cell.py` puts the parts together.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from daas_lab.networks import kernels
from daas_lab.networks.fast_layers import CornersFunction
from daas_lab.networks.fast_plan import (
    AVERAGE_POOL,
    KERNELS,
    MAX_POOL,
    POINTWISE,
    SKIP,
    Edges,
    Group,
    Pooled,
    together,
)

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


def pick(values: Tensor, edges: Edges) -> Tensor:
    """Rows of `values` [E, …] without an index that the host would have to send."""
    if not edges:
        return values[:0]
    near = together(edges)
    return torch.stack([values[e] for e in edges]) if near is None else values[near]


def pooled_gains(gains: Tensor, pooled: Pooled) -> Tensor:
    """Of gains [E, O] those of pools and skips, [n, operations]."""
    return pick(gains[pooled.edges].t(), pooled.operations).t()


def grouped(xs: Tensor, edges: Edges) -> Tensor:
    """[E, B, H, W, C] → [B, n C, H, W] of n edges."""
    if len(edges) == 1:
        return as_map(xs[edges[0]])
    near = together(edges)
    if near is None:
        return as_map(torch.cat([xs[e] for e in edges], 3))
    return as_map(xs[near].permute(1, 2, 3, 0, 4).flatten(3))


def add_to_nodes(sums: Tensor, outputs: list[tuple[Edges, Tensor]]) -> None:
    """Adds maps [B, n C, H, W] of n edges each to sums [E, B, H, W, C]; those of the same edges are added up first."""
    merged: dict[Edges, Tensor] = {}
    for edges, x in outputs:
        merged[edges] = merged[edges].add_(x) if edges in merged else x
    for edges, x in merged.items():
        parts, near = by_node(x, len(edges)), together(edges)
        if near is not None:
            sums[near].add_(parts)
        else:
            for e, part in zip(edges, parts.unbind(), strict=True):
                sums[e].add_(part)


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

    def add_gradient(self, g: Tensor | None, grad_r: Tensor | None, r: Tensor) -> Tensor | None:
        """∂r: `grad_r` with the gradient g of `map` added to it; either may be missing."""
        if g is None:
            return grad_r
        if self.on_subgrids:
            g = kernels.from_subgrids(g)
        elif g.shape != r.shape:
            grad_r = torch.zeros_like(r) if grad_r is None else grad_r
            grad_r[:, :, ::2, ::2].add_(g)
            return grad_r
        return g if grad_r is None else grad_r.add_(g)


# --- convolutions of a few edges that leave the same node -------------------------------------------------------------


class Weights(NamedTuple):
    """Of one group, the operations in order that an edge of it has: kernels [n C, 1, k, k], each of its own n edges,
    and the pointwise matrices of all these edges one after the other."""

    sep_1: list[Tensor]
    sep_2: list[Tensor]
    dil: list[Tensor]
    first: Tensor  # [Σ n, C, C]: after sep_1
    last: Tensor  # [Σ n, C, C]: after sep_2, then after dil


def split_weights(three: Tensor, five: Tensor, pointwise: Tensor, groups: list[Group]) -> list[Weights]:
    """The stacks of a cell (fast_supernet.py) for its groups of edges."""

    def split(stack: Tensor, operations: tuple[int, ...], lines: int = 1) -> list[tuple[Tensor, ...]]:
        """For each group its rows of each kind, `lines` of the stack a row."""
        sizes = [lines * len(group.get(o, ())) for o in operations for group in groups]
        rows = stack.split(sizes)
        return [rows[k :: len(groups)] for k in range(len(groups))]

    weights, C = [], pointwise.shape[1]
    small, large = (stack.reshape(-1, 1, k, k) for k, stack in ((3, three), (5, five)))
    stacks = split(small, KERNELS[3], C), split(large, KERNELS[5], C), split(pointwise, POINTWISE)
    for of_3, of_5, matrices in zip(*stacks, strict=True):
        sep_1, sep_2, dil = ([own for own in kind if len(own)] for kind in zip(of_3, of_5, strict=True))
        weights.append(Weights(sep_1, sep_2, dil, torch.cat(matrices[:2]), torch.cat(matrices[2:])))
    return weights


def convolve(r: Tensor, dilated: Dilated, weights: Weights, gains: Tensor, stride: int, eps: float):
    """gains [Σ n] → what enters the nodes, a map [B, n C, H, W] for each operation, dilated ones as `dilated` reads;
    batch statistics, [2, Σ n C] of the first and of the last pointwise convolutions; kept."""
    normalise = kernels.normalisation(r, r.shape[1])
    maps = [kernels.depthwise(x, kernel, stride) for x, kernel in _copied(r, weights.sep_1)]
    middle: tuple[Tensor, ...] = ()
    statistics, kept_1 = [r.new_zeros(2, 0)], ()
    if maps:
        middle, *statistics_1, kept_1 = normalise.forward(maps, weights.first, None, eps)
        middle, statistics = tuple(u.relu_() for u in middle), [torch.stack(statistics_1)]
    maps = last_inputs(middle, dilated, weights)
    outputs, *statistics_2, kept_2 = normalise.forward(maps, weights.last, gains, eps)
    return outputs, [*statistics, torch.stack(statistics_2)], (middle, kept_1, kept_2)


def last_inputs(middle: tuple[Tensor, ...], dilated: Dilated, weights: Weights) -> list[Tensor]:
    """What the last pointwise convolutions read."""
    maps = [kernels.depthwise(u, kernel) for u, kernel in zip(middle, weights.sep_2, strict=True)]
    y = _copied(dilated.map, weights.dil)
    return maps + [kernels.depthwise(x, kernel, dilated.stride, dilated.dilation) for x, kernel in y]


def _copied(x: Tensor, weights: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """x once for every edge that reads it, beside each operation's kernels."""
    counts = [len(kernel) // x.shape[1] for kernel in weights]
    copies = {n: kernels.copies(x, n) for n in dict.fromkeys(counts)}
    return [(copies[n], kernel) for n, kernel in zip(counts, weights, strict=True)]


def _sum_copies(parts: Iterable[Tensor], C: int) -> Tensor | None:
    """Backwards: maps [B, n C, H, W], each with its own n → [B, C, H, W]."""
    by_count: dict[int, Tensor] = {}
    for part in parts:
        n = part.shape[1] // C
        by_count[n] = by_count[n].add_(part) if n in by_count else part
    sums = [kernels.sum_copies(part, n) for n, part in by_count.items()]
    return sum(sums[1:], start=sums[0]) if sums else None


class Wanted(NamedTuple):
    """Which gradients the backward pass is asked for."""

    inputs: bool
    weights: bool
    gains: bool


def convolve_backward(
    gs: list[Tensor], r: Tensor, dilated: Dilated, weights: Weights, kept: tuple, stride: int, wanted: Wanted
):
    """gs: for each operation → ∂r without the dilated part, ∂ of the dilated map, ∂weights, ∂gains [Σ n]; None for what
    is not wanted or not there."""
    middle, kept_1, kept_2 = kept
    C = r.shape[1]
    normalise = kernels.normalisation(r, C)
    maps = last_inputs(middle, dilated, weights)
    deeper = wanted.inputs or wanted.weights
    gs, grad_last, grad_gains = normalise.backward(
        gs, maps, weights.last, kept_2, (deeper, wanted.weights, wanted.gains)
    )
    if not deeper:
        return None, None, None, grad_gains
    del maps
    of_sep, of_dil = gs[: len(middle)], gs[len(middle) :]
    y, x = _copied(dilated.map, weights.dil), _copied(r, weights.sep_1)
    grad_sep_1, grad_sep_2, grad_dil = [], [], []
    steps = dilated.stride, dilated.dilation
    if wanted.weights:
        grad_dil = [
            kernels.depthwise_weight_gradient(copy, g, kernel, *steps)
            for (copy, kernel), g in zip(y, of_dil, strict=True)
        ]
    grad_y = grad_r = grad_first = None
    if wanted.inputs:
        parts = zip(y, of_dil, strict=True)
        grad_y = _sum_copies(
            (kernels.depthwise_input_gradient(copy, g, kernel, *steps) for (copy, kernel), g in parts), C
        )
    for k, (u, kernel) in enumerate(zip(middle, weights.sep_2, strict=True)):
        if wanted.weights:
            grad_sep_2.append(kernels.depthwise_weight_gradient(u, of_sep[k], kernel))
        of_sep[k] = kernels.depthwise_input_gradient(u, of_sep[k], kernel)
        _aten.threshold_backward.grad_input(of_sep[k], u, 0, grad_input=of_sep[k])
    if middle:
        maps = [kernels.depthwise(copy, kernel, stride) for copy, kernel in x]
        of_sep, grad_first, _ = normalise.backward(of_sep, maps, weights.first, kept_1, (True, wanted.weights, False))
    if wanted.weights:
        grad_sep_1 = [
            kernels.depthwise_weight_gradient(copy, g, kernel, stride)
            for (copy, kernel), g in zip(x, of_sep, strict=True)
        ]
    if wanted.inputs:
        parts = zip(x, of_sep, strict=True)
        grad_r = _sum_copies(
            (kernels.depthwise_input_gradient(copy, g, kernel, stride) for (copy, kernel), g in parts), C
        )
    grads = None
    if wanted.weights:
        grad_first = weights.first if grad_first is None else grad_first  # no rows
        grads = Weights(grad_sep_1, grad_sep_2, grad_dil, grad_first, grad_last)
    return grad_r, grad_y, grads, grad_gains


# --- pools, skip, and what passes by ----------------------------------------------------------------------------------


def bypass_of(z: Tensor, C: int, stride: int) -> Tensor:
    """The channels of z that pass no operation."""
    return kernels.as_pixels_last(z[:, C:] if stride == 1 else F.max_pool2d(z[:, C:], 2))


def pool(z: Tensor, pooled: Pooled, gains: Tensor, sums: Tensor, stride: int, eps: float):
    """Adds the pools of z, normalised, and for stride 1 z itself, times gains [n, operations], to sums [n, B, H, W, C].

    Returns the batch statistics [2, C] of each pool and what the backward pass needs.
    """
    maps, scales, statistics, indices = [], [], [], None
    for operation in pooled.operations:
        if operation == SKIP:
            maps.append(flat(z))
            continue
        if operation == MAX_POOL:
            x, indices = _aten.max_pool2d_with_indices(z, [3, 3], [stride, stride], [1, 1])
            indices = indices.to(torch.int16 if z[0, 0].numel() < 2**15 else torch.int32)
        else:
            x = kernels.average_pool(z, stride)
        own = torch.zeros(2, z.shape[1], dtype=kernels.statistics_dtype(z), device=z.device)
        x, _, scale = torch.native_batch_norm(x, None, None, own[0], own[1], True, 1.0, eps)
        maps.append(flat(x))
        scales.append(scale)
        statistics.append(own)
    X = torch.stack(maps)
    sums.view(len(sums), -1).addmm_(gains.to(X.dtype), X)
    return statistics, (X, indices, *scales)


def pool_backward(gs: Tensor, z: Tensor, pooled: Pooled, gains: Tensor, kept: tuple, stride: int, wanted: Wanted):
    """gs [n, B, H, W, C] → ∂z, ∂gains."""
    X, indices, *scales = kept
    g_rows = gs.view(len(gs), -1)
    grad_gains = torch.mm(g_rows, X.t()) if wanted.gains else None
    if not wanted.inputs:
        return None, grad_gains
    grad_maps = torch.mm(gains.t().to(X.dtype), g_rows).view(len(X), *gs.shape[1:]).unbind()
    maps = X.view(len(X), *gs.shape[1:]).unbind()
    steps, grad_z = [stride, stride], None
    for k, operation in enumerate(pooled.operations):
        g = as_map(grad_maps[k])
        if operation != SKIP:
            zeros, ones = torch.zeros_like(scales[k]), torch.ones_like(scales[k])
            g, _, _ = _aten.native_batch_norm_backward(
                g, as_map(maps[k]), scales[k], None, None, zeros, ones, True, 0.0, [True, False, False]
            )
        if operation == MAX_POOL:
            g = _aten.max_pool2d_with_indices_backward(
                g, z, [3, 3], steps, [1, 1], [1, 1], False, indices.to(torch.int64)
            )
        elif operation == AVERAGE_POOL:
            g = kernels.average_pool_backward(g, z, stride)
        grad_z = g if grad_z is None else grad_z.add_(g)
    return grad_z, grad_gains


def skip_maps(r: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The factorised reductions of n edges before their batch-norm, [B, n C, H / 2, W / 2].

    `first` [n, C // 2, C] reads the even pixels of r, `second` [n, C − C // 2, C] the odd ones.
    """
    halves = [
        F.conv2d(x, weight.flatten(0, 1)[..., None, None]).unflatten(1, (len(weight), -1))
        for x, weight in zip(CornersFunction.apply(r), (first, second), strict=True)
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
