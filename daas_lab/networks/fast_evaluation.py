"""An evaluation pass through a whole mixed cell, by torch's own gradients: gains and running statistics go into the
convolutions. Legend as in `fast_cell.py`."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from daas_lab.networks import kernels
from daas_lab.networks.fast_edges import Dilated, bypass_of, pick, skip_maps
from daas_lab.networks.fast_plan import (
    AVERAGE_POOL,
    DILATED,
    KERNELS,
    MAX_POOL,
    NORMED,
    SEPARABLE,
    SKIP,
    Edges,
    Plan,
)


class Folded(NamedTuple):
    """The weights of a cell with batch-norms and gains in them: y = scale · x + bias is what a batch-norm does to x."""

    columns: Tensor  # gains [O, E]
    scales: tuple[Tensor, ...]  # of each kind of rows in `NORMED` [rows, C]
    biases: tuple[Tensor, ...]
    kernels: dict[int, tuple[Tensor, ...]]  # size k → of each kind in `KERNELS[k]` [rows C, 1, k, k]
    pointwise: tuple[Tensor, ...]  # of each kind in `POINTWISE` [rows, C, C], times their scales

    @classmethod
    def of(cls, plan: Plan, gains: Tensor, three: Tensor, five: Tensor, pointwise: Tensor, running) -> "Folded":
        """`running`: mean and variance of the batch-norms [rows C]."""
        columns, C = gains.t(), pointwise.shape[1]
        mean, variance = (x.view(-1, C) for x in running)
        # The gain of the batch-norm that each kind of rows ends in: of sep_1 there is none.
        last = [pick(columns[o], plan.candidates[o]) for o in NORMED]
        last[2:4] = [torch.ones_like(gain) for gain in last[2:4]]
        scale = torch.cat(last).unsqueeze(1) * (variance + plan.eps).rsqrt()
        bias, sizes = -scale * mean, [len(gain) for gain in last]
        matrices = scale[sum(sizes[:2]) :].unsqueeze(2) * pointwise
        stacks = {
            k: stack.view(-1, 1, k, k).split([C * len(plan.candidates[o]) for o in KERNELS[k]])
            for k, stack in ((3, three), (5, five))
        }
        return cls(columns, scale.split(sizes), bias.split(sizes), stacks, matrices.split(sizes[2:]))


def evaluate_cell(plan: Plan, input_0, input_1, gains, edge_weights, three, five, pointwise, *skips, running):
    """As `MixedCellFunction`, without statistics of the batch: `running` has mean and variance [rows C], and [n C] of
    the skips."""
    K, count = plan.partial_channels, plan.nodes - 2
    zs, C = [input_0, input_1], input_0.shape[1] // K
    folded = Folded.of(plan, gains, three, five, pointwise, running[0])
    nothing = torch.zeros_like(input_0[:, :C, :: plan.stride(0), :: plan.stride(0)])
    entering: list[list[Tensor]] = [[] for _ in range(count)]
    passing: list[list[Tensor]] = [[] for _ in range(count)]

    def close(node: int) -> Tensor:
        """Node `node`, counted from 0, once everything has entered it."""
        z = sum(entering[node][1:], start=entering[node][0]) if entering[node] else nothing
        if K == 1:
            return z
        bypass = sum(passing[node][1:], start=passing[node][0])
        return F.channel_shuffle(torch.cat([z, bypass], 1), K)

    for source in range(plan.nodes - 1):
        if source >= 2:
            zs.append(close(source - 2))
        (first, stop, node), z = plan.leaving(source), zs[source]
        if K > 1:
            x = bypass_of(z, C, plan.stride(source))
            for k, weight in enumerate(edge_weights[first:stop].unbind()):
                passing[node + k].append(weight * x)
            z = z[:, :C]
        # What leaves `source` by n edges [B, n C, H, W], summed over the operations of which these are all edges.
        sums: dict[Edges, Tensor] = {}
        r = z.relu()
        _add_convolutions(sums, plan, folded, source, r)
        _add_pools(sums, plan, folded, source, z)
        if plan.stride(source) == 1:
            _add_skips(sums, plan, folded, source, z)
        else:
            _add_reducing_skips(sums, plan, folded, source, r, skips, running[1])
        for edges, x in sums.items():
            for e, part in zip(edges, x.chunk(len(edges), 1), strict=True):
                entering[node + e - first].append(part)
    return torch.cat([*zs[2:], close(count - 1)], 1)


def _add_convolutions(sums: dict[Edges, Tensor], plan: Plan, folded: Folded, source: int, r: Tensor) -> None:
    C, stride, dilated = r.shape[1], plan.stride(source), Dilated.of(r, plan.stride(source))

    def depthwise(x: Tensor, k: int, kind: int, *steps: int) -> Tensor:
        rows = plan.rows(KERNELS[k][kind], source)
        return kernels.depthwise(x, folded.kernels[k][kind][rows.start * C : rows.stop * C], *steps)

    def pointwise(x: Tensor, kind: int) -> Tensor:
        """The matrices of that kind of `NORMED`, and their batch-norm."""
        rows = plan.rows(NORMED[kind], source)
        weight, bias = folded.pointwise[kind - 2][rows], folded.biases[kind][rows]
        return F.conv2d(x, weight.reshape(-1, C, 1, 1), bias.reshape(-1), groups=x.shape[1] // C)

    for k, o in zip((3, 5), SEPARABLE, strict=True):
        if edges := plan.having(o, source):
            x = pointwise(depthwise(kernels.copies(r, len(edges)), k, 0, stride), NORMED.index(o)).relu()
            _add(sums, edges, pointwise(depthwise(x, k, 1), NORMED.index(o) + 2))
    on_grid: dict[Edges, Tensor] = {}
    for k, o in zip((3, 5), DILATED, strict=True):
        if edges := plan.having(o, source):
            x = kernels.copies(dilated.map, len(edges))
            _add(on_grid, edges, pointwise(depthwise(x, k, 2, dilated.stride, dilated.dilation), NORMED.index(o)))
    for edges, x in on_grid.items():
        _add(sums, edges, kernels.from_subgrids(x) if dilated.on_subgrids else x)


def _add_pools(sums: dict[Edges, Tensor], plan: Plan, folded: Folded, source: int, z: Tensor) -> None:
    stride = plan.stride(source)
    for kind, o in enumerate((MAX_POOL, AVERAGE_POOL)):
        if edges := plan.having(o, source):
            x = F.max_pool2d(z, 3, stride, 1) if o == MAX_POOL else kernels.average_pool(z, stride)
            rows, shape = plan.rows(o, source), (1, len(edges), z.shape[1], 1, 1)
            x = x.unsqueeze(1) * folded.scales[kind][rows].view(shape) + folded.biases[kind][rows].view(shape)
            _add(sums, edges, x.flatten(1, 2))


def _add_skips(sums: dict[Edges, Tensor], plan: Plan, folded: Folded, source: int, z: Tensor) -> None:
    if edges := plan.having(SKIP, source):
        weight = pick(folded.columns[SKIP], edges)
        _add(sums, edges, (z.unsqueeze(1) * weight.view(1, len(edges), 1, 1, 1)).flatten(1, 2))


def _add_reducing_skips(
    sums: dict[Edges, Tensor], plan: Plan, folded: Folded, source: int, r: Tensor, skips, running
) -> None:
    edges, rows = plan.reduced_skips(source)
    if edges:
        C = r.shape[1]
        y = skip_maps(r, *(skip[rows] for skip in skips))
        weight = pick(folded.columns[SKIP], edges).repeat_interleave(C)
        mean, variance = (x.view(-1, C)[rows].reshape(-1) for x in running)
        _add(sums, edges, F.batch_norm(y, mean, variance, weight, None, False, 0.0, plan.eps))


def _add(sums: dict[Edges, Tensor], edges: Edges, x: Tensor) -> None:
    sums[edges] = sums[edges] + x if edges in sums else x
