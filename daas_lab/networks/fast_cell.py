"""A training pass through a whole mixed cell as one autograd function.

Legend: B batch, C channels that pass through operations, H = W side, n edges that leave one node, O operations,
E edges of a cell in *leaving order*: by source, then by node, so that the edges leaving a node are neighbours.

The sums over edges and operations of `supernet.py` are taken in another order:

    1. The edges that leave a node share its ReLU, its sub-grids, and its pools with their batch-norm.
    2. Max-pool, average-pool and skip of a node enter the nodes after it as one product of matrices: gains [n, 3] times
       maps [3, B H W C]. Backwards it gives ∂gains = g Xᵀ and ∂X = gainsᵀ g.
    3. The convolutions of edges that leave a node run as grouped ones, as many edges together as pays.
    4. b_ij a_ij^o is the gain of the batch-norm in which operation o ends (kernels.py, 4 to 6).
    5. What enters a node on sub-grids is added up there, and brought back once.

Kept for the backward pass are, for each edge, the two maps in the middle of its separable convolutions; for each node
its pools. All else is computed again: a depthwise convolution costs less than the memory to keep its result.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from daas_lab.networks import kernels
from daas_lab.networks.fast_edges import (
    AVERAGE_POOL,
    MAX_POOL,
    SEP_3,
    SKIP,
    Dilated,
    Wanted,
    again,
    as_map,
    by_node,
    convolve,
    convolve_backward,
    flat,
    grouped,
    last_inputs,
    pool,
    pool_backward,
    reduce_skips,
    skip_maps,
    split_weights,
)
from daas_lab.space.cell_space import PRIMITIVES, cell_edges

_aten = torch.ops.aten


class Plan(NamedTuple):
    """What a cell's computation depends on besides tensors."""

    nodes: int
    reduces: bool
    partial_channels: int
    eps: float

    def edges(self) -> list[tuple[int, int]]:
        """(source, node) of every edge, in leaving order."""
        return sorted(cell_edges(self.nodes))

    def leaving(self, source: int) -> tuple[int, int, int]:
        """The slice of edges that leave `source`, and the first of their nodes, counted from 0 at node 2."""
        positions = [k for k, (i, _) in enumerate(self.edges()) if i == source]
        return positions[0], positions[-1] + 1, max(0, source - 1)

    def stride(self, source: int) -> int:
        """Of the edges that leave `source`."""
        return 2 if self.reduces and source < 2 else 1


# --- the cell ---------------------------------------------------------------------------------------------------------


class MixedCellFunction(Function):
    """(plan, inputs [B, K C, H, W] twice, gains [E, O], edge weights [E], kernels [3 E, C, 9] and [3 E, C, 25],
    pointwise [6 E, C, C], skips) → cell output [B, (N-2) K C, H, W], batch statistics [2, 8, E, C], of skips [2, n C].

    The kinds of the statistics: both pools, sep_1 (3×3, 5×5), sep_2 (both), dil (both); mean, then unbiased variance.
    """

    @staticmethod
    def forward(ctx, plan, input_0, input_1, gains, edge_weights, three, five, pointwise, *skips):
        K, count = plan.partial_channels, plan.nodes - 2
        zs = [kernels.as_pixels_last(input_0), kernels.as_pixels_last(input_1)]
        B, channels, H, W = zs[0].shape
        C, H, W = channels // K, H // plan.stride(0), W // plan.stride(0)
        sums = zs[0].new_zeros(count, B, H, W, C)
        on_subgrids = H % 2 == 0 and W % 2 == 0
        subgrid_sums = zs[0].new_zeros(count, 4 * B, H // 2, W // 2, C) if on_subgrids else None
        bypass = zs[0].new_zeros(count, B, H, W, channels - C) if K > 1 else None
        groups = _groups(plan, zs[0], C, H * W)
        weights = iter(split_weights(three, five, pointwise, [b - a for group in groups for a, b in group]))
        outputs, statistics, kept, skip_statistics = [], [], [], []

        def close(node: int) -> Tensor:
            """Node `node`, counted from 0, once everything has entered it."""
            z = as_map(sums[node])
            if on_subgrids:
                z.add_(kernels.from_subgrids(as_map(subgrid_sums[node])))
            if K > 1:
                z = kernels.as_pixels_last(F.channel_shuffle(torch.cat([z, as_map(bypass[node])], 1), K))
            outputs.append(z)
            return z

        for source in range(plan.nodes - 1):
            if source >= 2:
                zs.append(close(source - 2))
            first, stop, node = plan.leaving(source)
            z, stride = zs[source], plan.stride(source)
            if K > 1:
                passing = flat(_bypass(z, C, stride))
                weight = edge_weights[first:stop].to(z.dtype).unsqueeze(1)
                bypass[node:].view(stop - first, -1).addmm_(weight, passing.unsqueeze(0))
                z = kernels.as_pixels_last(z[:, :C])
            pooled = gains[first:stop, : SKIP + 1 if stride == 1 else SKIP]
            pool_statistics, kept_pool = pool(z, pooled, sums[node:], stride, plan.eps)
            r = z.relu()
            dilated = Dilated.of(r, stride)
            kept_groups, group_statistics = [], []
            for a, b in groups[source]:
                out, out_dilated, batch, kept_group = convolve(
                    r, dilated, next(weights), gains[a:b, SEP_3:].t(), stride, plan.eps
                )
                at = slice(node + a - first, node + b - first)
                sums[at].add_(by_node(out, b - a))
                (subgrid_sums if dilated.on_subgrids else sums)[at].add_(by_node(out_dilated, b - a))
                kept_groups.append(kept_group)
                group_statistics.append(batch.unflatten(2, (b - a, C)))
            if stride == 2:
                out, *batch = reduce_skips(r, *(skip[first:stop] for skip in skips), gains[first:stop, SKIP], plan.eps)
                sums[node:].add_(by_node(out, stop - first))
                skip_statistics.append(torch.stack(batch))
            shared = pool_statistics.unsqueeze(2).expand(2, 2, stop - first, C)
            statistics.append(torch.cat([shared, torch.cat(group_statistics, 2)], 1))
            # The skip's map is z: no need to keep it twice.
            own = zs[source] if stride == 2 or K > 1 else ()
            kept.append((own, kept_pool, tuple(kept_groups)))
        close(count - 1)
        ctx.plan, ctx.groups, ctx.on_subgrids = plan, groups, on_subgrids
        tensors, ctx.structure = tree_flatten((gains, edge_weights, three, five, pointwise, skips, tuple(kept)))
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        output, statistics = torch.cat(outputs, 1), torch.cat(statistics, 2)
        skip_statistics = torch.cat(skip_statistics, 1) if skip_statistics else None
        ctx.mark_non_differentiable(statistics, *([] if skip_statistics is None else [skip_statistics]))
        return output, statistics, skip_statistics

    @staticmethod
    @once_differentiable
    def backward(ctx, g, *_):
        none = [None] * len(ctx.needs_input_grad)
        if g is None:
            return tuple(none)
        plan = ctx.plan
        gains, edge_weights, three, five, pointwise, skips, kept = tree_unflatten(ctx.saved_tensors, ctx.structure)
        K, count = plan.partial_channels, plan.nodes - 2
        stacks = iter(split_weights(three, five, pointwise, [b - a for group in ctx.groups for a, b in group]))
        weights = [[next(stacks) for _ in group] for group in ctx.groups]  # by source, then by group of edges
        weights_wanted, gains_wanted = any(ctx.needs_input_grad[5:]), ctx.needs_input_grad[3]
        channels = g.shape[1] // count
        C = channels // K
        # By node: [N-2, B, H, W, K C], and with partial channels the parts that passed operations and that did not.
        node_grads = g.permute(0, 2, 3, 1).unflatten(3, (count, channels)).permute(3, 0, 1, 2, 4).contiguous()
        mixed = node_grads if K == 1 else torch.empty_like(node_grads[..., :C]).contiguous()
        passed = None if K == 1 else torch.empty_like(node_grads[..., C:]).contiguous()
        input_grads: list[Tensor | None] = [None, None]
        parts: dict[str, list] = {name: [] for name in ("gains", "edges", "three", "five", "pointwise", "skips")}

        def open_node(node: int) -> None:
            """Split node `node`'s gradient, now complete, into what the operations see and what passes by."""
            if K > 1:
                grad = F.channel_shuffle(as_map(node_grads[node]), channels // K)
                as_map(mixed[node]).copy_(grad[:, :C])
                as_map(passed[node]).copy_(grad[:, C:])

        open_node(count - 1)
        for source in reversed(range(plan.nodes - 1)):
            first, stop, node = plan.leaving(source)
            stride = plan.stride(source)
            own, kept_pool, kept_groups = kept[source]
            whole = as_map(kept_pool[0][SKIP].view(mixed.shape[1:])) if isinstance(own, tuple) else own
            z = whole if K == 1 else kernels.as_pixels_last(whole[:, :C])
            inputs_wanted = source >= 2 or ctx.needs_input_grad[1 + source]
            grad_z, *grads = _leaving_backward(
                mixed[node:],
                z,
                gains[first:stop],
                weights[source],
                [skip[first:stop] for skip in skips],
                (kept_pool, kept_groups),
                stride,
                plan.eps,
                Wanted(inputs_wanted, weights_wanted, gains_wanted),
            )
            for name, grad in zip(("gains", "three", "five", "pointwise", "skips"), grads, strict=True):
                if grad is not None:
                    parts[name].insert(0, grad)
            if K > 1:
                grad_z, grad_weight = _bypass_backward(
                    whole, C, stride, edge_weights[first:stop], passed[node:], grad_z, inputs_wanted
                )
                parts["edges"].insert(0, grad_weight)
            if source >= 2:
                as_map(node_grads[source - 2]).add_(grad_z)
                open_node(source - 2)
            else:
                input_grads[source] = grad_z
        result = [None, *input_grads, *none[3:]]
        if gains_wanted:
            result[3] = torch.cat(parts["gains"]).to(gains.dtype)
        if K > 1 and ctx.needs_input_grad[4]:
            result[4] = torch.cat(parts["edges"]).to(edge_weights.dtype)
        if weights_wanted:
            stacks = zip(("three", "five", "pointwise"), (three, five, pointwise), strict=True)
            result[5:8] = [torch.cat(parts[name], 1).view(stack.shape) for name, stack in stacks]
            result[8:] = [torch.cat(grads) for grads in zip(*parts["skips"], strict=True)]
        return tuple(result)


def evaluate_cell(plan, input_0, input_1, gains, edge_weights, three, five, pointwise, *skips, running):
    """The same at evaluation, by torch's own gradients: gains and running statistics go into the convolutions.

    `running`: mean and variance [8 E C], and [n C] of the skips, in the order of the batch statistics.
    """
    K, count = plan.partial_channels, plan.nodes - 2
    zs, C, E = [input_0, input_1], input_0.shape[1] // K, len(gains)
    mean, variance = (x.view(8, E, C) for x in running[0])
    one = torch.ones_like(gains[:, 0])
    columns = [gains[:, o] for o in range(len(PRIMITIVES))]
    last = torch.stack([columns[MAX_POOL], columns[AVERAGE_POOL], one, one, *columns[SEP_3:]]).unsqueeze(2)
    scale = last * (variance + plan.eps).rsqrt()  # [8, E, C]
    bias = -scale * mean
    folded = scale[2:].unsqueeze(3) * pointwise.view(6, E, C, C)
    entering: list[list[Tensor]] = [[] for _ in range(count)]
    passing: list[list[Tensor]] = [[] for _ in range(count)]

    def close(node: int) -> Tensor:
        z = sum(entering[node][1:], start=entering[node][0])
        if K == 1:
            return z
        bypass = sum(passing[node][1:], start=passing[node][0])
        return F.channel_shuffle(torch.cat([z, bypass], 1), K)

    for source in range(plan.nodes - 1):
        if source >= 2:
            zs.append(close(source - 2))
        (first, stop, node), stride, z = plan.leaving(source), plan.stride(source), zs[source]
        n, edges, channels = stop - first, slice(first, stop), slice(first * C, stop * C)
        if K > 1:
            x = _bypass(z, C, stride)
            for k, weight in enumerate(edge_weights[edges].unbind()):
                passing[node + k].append(weight * x)
            z = z[:, :C]
        r = z.relu()
        dilated = Dilated.of(r, stride)
        sep_1, sep_2, dil = (
            [stack.view(3, -1, 1, k, k)[kind, channels] for k, stack in ((3, three), (5, five))] for kind in range(3)
        )

        def fold(kind: int, x: Tensor, edges=edges, n=n) -> Tensor:
            kernel = folded[kind, edges].reshape(-1, C, 1, 1)
            return F.conv2d(x, kernel, bias[2 + kind, edges].reshape(-1), groups=n)

        middle = [
            fold(k, kernels.depthwise(kernels.copies(r, n), kernel, stride)).relu() for k, kernel in enumerate(sep_1)
        ]
        maps = last_inputs(middle, kernels.copies(dilated.map, n), dilated, sep_2, dil)
        outputs = [fold(2 + k, x) for k, x in enumerate(maps)]
        on_grid = outputs[2] + outputs[3]
        out = outputs[0] + outputs[1] + (kernels.from_subgrids(on_grid) if dilated.on_subgrids else on_grid)
        for kind, x in enumerate((F.max_pool2d(z, 3, stride, 1), kernels.average_pool(z, stride))):
            shape = (1, n, C, 1, 1)
            x = x.unsqueeze(1) * scale[kind, edges].view(shape) + bias[kind, edges].view(shape)
            out = out + x.flatten(1, 2)
        if stride == 1:
            out = out + (z.unsqueeze(1) * gains[edges, SKIP].view(1, n, 1, 1, 1)).flatten(1, 2)
        else:
            y = skip_maps(r, *(skip[edges] for skip in skips))
            weight = gains[edges, SKIP].repeat_interleave(C)
            out = out + F.batch_norm(y, *(x[channels] for x in running[1]), weight, None, False, 0.0, plan.eps)
        for k, x in enumerate(out.chunk(n, 1)):
            entering[node + k].append(x)
    return torch.cat([*zs[2:], close(count - 1)], 1)


def _leaving_backward(gs, z, gains, weights, skips, kept, stride, eps, wanted):
    """Of the edges that leave one node, from gs [n, B, H, W, C]: → ∂z, ∂gains [n, O], ∂kernels (3×3 [3, n C, 9], 5×5
    [3, n C, 25]), ∂pointwise [6, n, C, C], ∂skips (a list); None for what is not wanted or not there."""
    kept_pool, kept_groups = kept
    pooled = gains[:, : SKIP + 1 if stride == 1 else SKIP]
    grad_z, grad_pooled = pool_backward(gs, z, pooled, kept_pool, stride, wanted)
    r = z.relu()
    dilated = Dilated.of(r, stride)
    grad_r = grad_dilated = grad_skips = None
    grad_gains, grad_weights = [], []
    gs_of_groups = gs.split([len(group.first) // 2 for group in weights])
    for g_nodes, own, kept_group in zip(gs_of_groups, weights, kept_groups, strict=True):
        g = grouped(g_nodes)
        g_dilated = kernels.to_subgrids(g) if dilated.on_subgrids else g
        *grads, grad_gain = convolve_backward(g, g_dilated, r, dilated, own, kept_group, stride, wanted)
        if wanted.inputs:
            grad_r = grads[0] if grad_r is None else grad_r.add_(grads[0])
            grad_dilated = grads[1] if grad_dilated is None else grad_dilated.add_(grads[1])
        grad_gains.append(grad_gain)
        grad_weights.append(grads[2:])
    columns = [grad_pooled]
    if stride == 2:
        grad_part, *grad_skips, grad_skip_gains = again(
            lambda *tensors: reduce_skips(*tensors, eps),
            [r, *skips, gains[:, SKIP]],
            [wanted.inputs, wanted.weights, wanted.weights, wanted.gains],
            grouped(gs),
        )
        if wanted.inputs:
            grad_r.add_(grad_part)
        if wanted.gains:
            columns.append(grad_skip_gains.unsqueeze(1))
    if wanted.inputs:
        grad_r = dilated.add_gradient(grad_dilated, grad_r)
        grad_z.add_(_aten.threshold_backward(grad_r, r, 0))
    grad_gains = torch.cat([*columns, torch.cat(grad_gains, 1).t()], 1) if wanted.gains else None
    kernels_and_pointwise = [None] * 3
    if wanted.weights:
        kernels_and_pointwise = [torch.cat(column, 1) for column in zip(*grad_weights, strict=True)]
    return grad_z, grad_gains, *kernels_and_pointwise, grad_skips


def _groups(plan: Plan, z: Tensor, C: int, pixels: int) -> list[list[tuple[int, int]]]:
    """For each source the groups of its edges that run together, as slices."""
    size = kernels.group_size(z, z.shape[0] * C * pixels)
    return [
        [(a, min(a + size, stop)) for a in range(first, stop, size)]
        for first, stop, _ in (plan.leaving(source) for source in range(plan.nodes - 1))
    ]


def _bypass(z: Tensor, C: int, stride: int) -> Tensor:
    """The channels of z that pass no operation."""
    return kernels.as_pixels_last(z[:, C:] if stride == 1 else F.max_pool2d(z[:, C:], 2))


def _bypass_backward(z, C, stride, edge_weights, gs, grad_z, inputs_wanted):
    """→ ∂z of all channels, from that of the first C; ∂edge_weights."""
    g_rows = gs.view(len(gs), -1)
    grad_weights = torch.mv(g_rows, flat(_bypass(z, C, stride)))
    if not inputs_wanted:
        return None, grad_weights
    g = as_map((edge_weights.to(g_rows.dtype) @ g_rows).view(gs.shape[1:]))
    (grad,) = [g] if stride == 1 else again(lambda x: (F.max_pool2d(x, 2),), [z[:, C:]], [True], g)
    return torch.cat([grad_z, grad], 1), grad_weights
