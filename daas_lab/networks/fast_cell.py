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

A candidate that is not in `Plan.candidates`, for it has left the search or is not drawn in this step, is not computed,
and has no rows in the stacks of weights.

Kept for the backward pass are, for each edge, the two maps in the middle of its separable convolutions; for each node
its pools. All else is computed again: a depthwise convolution costs less than the memory to keep its result.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from daas_lab.networks import kernels
from daas_lab.networks.fast_edges import (
    Dilated,
    Wanted,
    Weights,
    add_to_nodes,
    again,
    as_map,
    bypass_of,
    convolve,
    convolve_backward,
    flat,
    grouped,
    pick,
    pool,
    pool_backward,
    pooled_gains,
    reduce_skips,
    split_weights,
)
from daas_lab.networks.fast_plan import (
    DILATED,
    KERNELS,
    NORMED,
    POINTWISE,
    SEPARABLE,
    SKIP,
    Edges,
    Group,
    Plan,
    together,
)

_aten = torch.ops.aten


# --- the cell ---------------------------------------------------------------------------------------------------------


class MixedCellFunction(Function):
    """(plan, inputs [B, K C, H, W] twice, gains [E, O], edge weights [E], stacks of kernels [rows, C, 9] and
    [rows, C, 25], of pointwise matrices [rows, C, C], of skips) → cell output [B, (N-2) K C, H, W], batch statistics
    [2, rows C], of skips [2, n C].

    Rows of kernels and pointwise as `KERNELS` and `POINTWISE` say, of statistics as `NORMED`: mean, unbiased variance.
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
        weights = iter(split_weights(three, five, pointwise, [group for own in groups for group in own]))
        outputs, kept, skip_statistics = [], [], []
        statistics: list[list[Tensor]] = [[] for _ in NORMED]
        columns = gains.t()

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
                passing = flat(bypass_of(z, C, stride))
                weight = edge_weights[first:stop].to(z.dtype).unsqueeze(1)
                bypass[node:].view(stop - first, -1).addmm_(weight, passing.unsqueeze(0))
                z = kernels.as_pixels_last(z[:, :C])
            kept_pool, pooled = None, plan.pooled(source)
            if pooled:
                nodes = slice(node + pooled.edges.start - first, node + pooled.edges.stop - first)
                batch, kept_pool = pool(z, pooled, pooled_gains(gains, pooled), sums[nodes], stride, plan.eps)
                for kind, own in zip(pooled.operations, batch, strict=False):
                    statistics[kind].append(own.repeat(1, len(plan.having(kind, source))))
            reducing, rows = plan.reduced_skips(source)
            kept_groups = []
            if groups[source] or reducing:
                r = z.relu()
                dilated = Dilated.of(r, stride)
            for group in groups[source]:
                own_gains = torch.cat([pick(columns[o], edges) for o, edges in group.items()])
                maps, batch, kept_group = convolve(r, dilated, next(weights), own_gains, stride, plan.eps)
                entering = [(tuple(e - first for e in edges), x) for edges, x in zip(group.values(), maps, strict=True)]
                separable = sum(o in SEPARABLE for o in group)
                add_to_nodes(sums[node:], entering[:separable])
                add_to_nodes((subgrid_sums if dilated.on_subgrids else sums)[node:], entering[separable:])
                kept_groups.append(kept_group)
                _sort(batch, group, C, statistics)
            if reducing:
                own_gains = pick(columns[SKIP], reducing)
                out, *batch = reduce_skips(r, *(skip[rows] for skip in skips), own_gains, plan.eps)
                add_to_nodes(sums[node:], [(tuple(e - first for e in reducing), out)])
                skip_statistics.append(torch.stack(batch))
            # The skip's map is z: no need to keep it twice.
            own = () if pooled and K == 1 and SKIP in pooled.operations else zs[source]
            kept.append((own, kept_pool, tuple(kept_groups)))
        close(count - 1)
        ctx.plan, ctx.groups, ctx.on_subgrids = plan, groups, on_subgrids
        tensors, ctx.structure = tree_flatten((gains, edge_weights, three, five, pointwise, skips, tuple(kept)))
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        none = gains.new_zeros(2, 0)  # where only skips are left
        statistics = torch.cat([none, *(own for kind in statistics for own in kind)], 1)
        skip_statistics = torch.cat(skip_statistics, 1) if skip_statistics else None
        ctx.mark_non_differentiable(statistics, *([] if skip_statistics is None else [skip_statistics]))
        return torch.cat(outputs, 1), statistics, skip_statistics

    @staticmethod
    @once_differentiable
    def backward(ctx, g, *_):
        none = [None] * len(ctx.needs_input_grad)
        if g is None:
            return tuple(none)
        plan = ctx.plan
        gains, edge_weights, three, five, pointwise, skips, kept = tree_unflatten(ctx.saved_tensors, ctx.structure)
        K, count = plan.partial_channels, plan.nodes - 2
        stacks = iter(split_weights(three, five, pointwise, [group for own in ctx.groups for group in own]))
        weights = [[next(stacks) for _ in own] for own in ctx.groups]  # by source, then by group of edges
        wanted = Wanted(True, any(ctx.needs_input_grad[5:]), ctx.needs_input_grad[3])
        channels = g.shape[1] // count
        C = channels // K
        # By node: [N-2, B, H, W, K C], and with partial channels the parts that passed operations and that did not.
        node_grads = g.permute(0, 2, 3, 1).unflatten(3, (count, channels)).permute(3, 0, 1, 2, 4).contiguous()
        mixed = node_grads if K == 1 else torch.empty_like(node_grads[..., :C]).contiguous()
        passed = None if K == 1 else torch.empty_like(node_grads[..., C:]).contiguous()
        input_grads: list[Tensor | None] = [None, None]
        grad_gains = torch.zeros_like(gains) if wanted.gains else None
        grad_edges = torch.zeros_like(edge_weights) if K > 1 and ctx.needs_input_grad[4] else None
        # By source: of its groups the rows of each kind, and its skips.
        grad_stacks: list[list] = []

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
            whole = own
            if isinstance(own, tuple):
                whole = as_map(kept_pool[0][plan.pooled(source).operations.index(SKIP)].view(mixed.shape[1:]))
            z = whole if K == 1 else kernels.as_pixels_last(whole[:, :C])
            inputs_wanted = source >= 2 or ctx.needs_input_grad[1 + source]
            grad_z, *own_stacks = _leaving_backward(
                plan,
                source,
                mixed[node:],
                z,
                gains,
                (ctx.groups[source], weights[source], kept_groups),
                kept_pool,
                skips,
                wanted._replace(inputs=inputs_wanted),
                grad_gains,
            )
            grad_stacks.insert(0, own_stacks)
            if K > 1:
                grad_z, grad_weight = _bypass_backward(
                    whole, C, stride, edge_weights[first:stop], passed[node:], grad_z, inputs_wanted
                )
                if grad_edges is not None:
                    grad_edges[first:stop] = grad_weight
            if source >= 2:
                as_map(node_grads[source - 2]).add_(grad_z)
                open_node(source - 2)
            else:
                input_grads[source] = grad_z
        result = [None, *input_grads, grad_gains, grad_edges, *none[5:]]
        if wanted.weights:
            groups = [grads for own, _ in grad_stacks for grads in own]
            result[5:8] = [_stacked(groups, *stack) for stack in zip((three, five, pointwise), range(3), strict=True)]
            own_skips = [own for _, own in grad_stacks if own]
            result[8:] = [
                torch.cat(grads) if grads else torch.zeros_like(skip)
                for skip, grads in zip(skips, zip(*own_skips, strict=True) if own_skips else [()] * 2, strict=False)
            ]
        return tuple(result)


def _leaving_backward(plan, source, gs, z, gains, grouped_edges, kept_pool, skips, wanted, grad_gains):
    """Of the edges that leave `source`, from gs [n, B, H, W, C]: → ∂z, of each group its ∂ of `KERNELS` and
    `POINTWISE`, and ∂skips, as far as they are wanted and there; ∂gains go to grad_gains [E, O]."""
    (first, _, _), stride = plan.leaving(source), plan.stride(source)
    grad_z = grad_r = grad_dilated = None
    if pooled := plan.pooled(source):
        own = gs[pooled.edges.start - first : pooled.edges.stop - first]
        grad_z, grads = pool_backward(own, z, pooled, pooled_gains(gains, pooled), kept_pool, stride, wanted)
        for o, grad in zip(pooled.operations, grads.unbind(1) if wanted.gains else (), strict=False):
            grad_gains[pooled.edges, o] = grad
    r = z.relu()
    dilated = Dilated.of(r, stride)
    grad_stacks, grad_skips = [], []
    for group, weights, kept_group in zip(*grouped_edges, strict=True):
        own_gs = _gradients(gs, group, first, dilated)
        *grads, of_weights, of_gains = convolve_backward(own_gs, r, dilated, weights, kept_group, stride, wanted)
        if wanted.inputs:
            grad_r, grad_dilated = (
                new if old is None else old if new is None else old.add_(new)
                for old, new in zip((grad_r, grad_dilated), grads, strict=True)
            )
        if wanted.weights:
            grad_stacks.append(_by_kind(group, of_weights))
        if wanted.gains:
            for (o, edges), grad in zip(group.items(), of_gains.split([*map(len, group.values())]), strict=True):
                _put(grad_gains[:, o], edges, grad)
    edges, rows = plan.reduced_skips(source)
    if edges:
        grad_part, *grad_skips, grad = again(
            lambda *tensors: reduce_skips(*tensors, plan.eps),
            [r, *(skip[rows] for skip in skips), pick(gains[:, SKIP], edges)],
            [wanted.inputs, wanted.weights, wanted.weights, wanted.gains],
            grouped(gs, tuple(e - first for e in edges)),
        )
        if wanted.inputs:
            grad_r = grad_part if grad_r is None else grad_r.add_(grad_part)
        if wanted.gains:
            _put(grad_gains[:, SKIP], edges, grad)
    if wanted.inputs:
        grad_z = torch.zeros_like(z) if grad_z is None else grad_z
        grad_r = dilated.add_gradient(grad_dilated, grad_r, r)
        if grad_r is not None:
            grad_z.add_(_aten.threshold_backward(grad_r, r, 0))
    return grad_z, grad_stacks, grad_skips


def _gradients(gs: Tensor, group: Group, first: int, dilated: Dilated) -> list[Tensor]:
    """For each operation what its edges get from their nodes; operations of the same edges share it."""
    made: dict[tuple[Edges, bool], Tensor] = {}
    own = []
    for o, edges in group.items():
        on_grid = o in DILATED and dilated.on_subgrids
        if (edges, False) not in made:
            made[edges, False] = grouped(gs, tuple(e - first for e in edges))
        if (edges, on_grid) not in made:
            made[edges, True] = kernels.to_subgrids(made[edges, False])
        own.append(made[edges, on_grid])
    return own


def _by_kind(group: Group, grads: Weights) -> tuple[list[Tensor | None], ...]:
    """Gradients of a group's weights, by the kinds of rows of each of the three stacks."""
    counts = [len(edges) for edges in group.values()]
    separable = [o for o in SEPARABLE if o in group]
    dilated = [o for o in DILATED if o in group]
    sep_1, sep_2 = (dict(zip(separable, own, strict=True)) for own in (grads.sep_1, grads.sep_2))
    dil = dict(zip(dilated, grads.dil, strict=True))
    first = dict(zip(separable, grads.first.split(counts[: len(separable)]), strict=False))
    last = dict(zip(group, grads.last.split(counts), strict=True))
    small, large = ([own.get(o) for own, o in zip((sep_1, sep_2, dil), KERNELS[k], strict=True)] for k in (3, 5))
    return small, large, [own.get(o) for own, o in zip((first, first, last, last, last, last), POINTWISE, strict=True)]


def _stacked(groups: list[tuple[list[Tensor | None], ...]], stack: Tensor, which: int) -> Tensor:
    """What `_by_kind` gave for all groups, in the order of the rows of `stack`."""
    parts = [own for kind in zip(*(group[which] for group in groups), strict=True) for own in kind if own is not None]
    return torch.cat([own.reshape(-1) for own in parts]).view(stack.shape) if parts else torch.zeros_like(stack)


def _put(column: Tensor, edges: Edges, values: Tensor) -> None:
    """`values` [n] at their places in a column [E]."""
    near = together(edges)
    if near is not None:
        column[near] = values
    else:
        for e, value in zip(edges, values.unbind(), strict=True):
            column[e] = value


def _sort(batch: list[Tensor], group: Group, C: int, statistics: list[list[Tensor]]) -> None:
    """Batch statistics of a group's first and last pointwise convolutions to the kinds that they are of."""
    for values, start, operations in zip(batch, (2, 4), (SEPARABLE, POINTWISE[2:]), strict=True):
        own = [o for o in operations if o in group]
        for o, part in zip(own, values.split([C * len(group[o]) for o in own], 1), strict=False):
            statistics[start + operations.index(o)].append(part)


def _groups(plan: Plan, z: Tensor, C: int, pixels: int) -> list[list[Group]]:
    """For each source the groups of its edges that run together."""
    size = kernels.group_size(z, z.shape[0] * C * pixels)
    return [plan.groups(source, size) for source in range(plan.nodes - 1)]


def _bypass_backward(z, C, stride, edge_weights, gs, grad_z, inputs_wanted):
    """→ ∂z of all channels, from that of the first C; ∂edge_weights."""
    g_rows = gs.view(len(gs), -1)
    grad_weights = torch.mv(g_rows, flat(bypass_of(z, C, stride)))
    if not inputs_wanted:
        return None, grad_weights
    g = as_map((edge_weights.to(g_rows.dtype) @ g_rows).view(gs.shape[1:]))
    (grad,) = [g] if stride == 1 else again(lambda x: (F.max_pool2d(x, 2),), [z[:, C:]], [True], g)
    return torch.cat([grad_z, grad], 1), grad_weights
