"""An evaluation pass through a whole mixed cell, by torch's own gradients: gains and running statistics go into the
convolutions. Legend as in `fast_cell.py`."""

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
from daas_lab.space.cell_space import PRIMITIVES


def evaluate_cell(plan: Plan, input_0, input_1, gains, edge_weights, three, five, pointwise, *skips, running):
    """As `MixedCellFunction`, without statistics of the batch: `running` has mean and variance [rows C], and [n C] of
    the skips."""
    K, count = plan.partial_channels, plan.nodes - 2
    zs, C = [input_0, input_1], input_0.shape[1] // K
    mean, variance = (x.view(-1, C) for x in running[0])
    columns = gains.t()
    # The gain of the batch-norm that each kind of rows ends in: of sep_1 there is none.
    last = [pick(columns[o], plan.candidates[o]) for o in NORMED]
    last[2:4] = [torch.ones_like(gain) for gain in last[2:4]]
    scale = torch.cat(last).unsqueeze(1) * (variance + plan.eps).rsqrt()  # [rows, C]
    bias = -scale * mean
    sizes = [len(gain) for gain in last]
    folded = (scale[sum(sizes[:2]) :].unsqueeze(2) * pointwise).split(sizes[2:])
    scales, biases = scale.split(sizes), bias.split(sizes)
    stacks = {
        k: stack.view(-1, 1, k, k).split([C * len(plan.candidates[o]) for o in KERNELS[k]])
        for k, stack in ((3, three), (5, five))
    }
    entering: list[list[Tensor]] = [[] for _ in range(count)]
    passing: list[list[Tensor]] = [[] for _ in range(count)]

    def close(node: int) -> Tensor:
        z = sum(entering[node][1:], start=entering[node][0]) if entering[node] else nothing
        if K == 1:
            return z
        bypass = sum(passing[node][1:], start=passing[node][0])
        return F.channel_shuffle(torch.cat([z, bypass], 1), K)

    def leaving(source: int, z: Tensor) -> dict[Edges, Tensor]:
        """What leaves `source` by n edges [B, n C, H, W], summed over the operations of which these are all edges."""
        first, stride = plan.leaving(source)[0], plan.stride(source)
        having = [plan.having(o, source) for o in range(len(PRIMITIVES))]
        start = [sum(e < first for e in edges) for edges in plan.candidates]
        r = z.relu()
        dilated = Dilated.of(r, stride)
        out: dict[Edges, Tensor] = {}

        def rows(kind: int) -> slice:
            """Of this source, in what is split by `NORMED`."""
            o = NORMED[kind]
            return slice(start[o], start[o] + len(having[o]))

        def depthwise(x: Tensor, k: int, kind: int, *steps: int) -> Tensor:
            o = KERNELS[k][kind]
            kernel = stacks[k][kind][start[o] * C : (start[o] + len(having[o])) * C]
            return kernels.depthwise(x, kernel, *steps)

        def fold(kind: int, x: Tensor) -> Tensor:
            kernel, at = folded[kind - 2], rows(kind)
            return F.conv2d(x, kernel[at].reshape(-1, C, 1, 1), biases[kind][at].reshape(-1), groups=x.shape[1] // C)

        for k, o in zip((3, 5), SEPARABLE, strict=True):
            if edges := having[o]:
                x = fold(NORMED.index(o), depthwise(kernels.copies(r, len(edges)), k, 0, stride)).relu()
                _add(out, edges, fold(NORMED.index(o) + 2, depthwise(x, k, 1)))
        on_grid: dict[Edges, Tensor] = {}
        for k, o in zip((3, 5), DILATED, strict=True):
            if edges := having[o]:
                x = kernels.copies(dilated.map, len(edges))
                _add(on_grid, edges, fold(NORMED.index(o), depthwise(x, k, 2, dilated.stride, dilated.dilation)))
        for edges, x in on_grid.items():
            _add(out, edges, kernels.from_subgrids(x) if dilated.on_subgrids else x)
        for kind, o in enumerate((MAX_POOL, AVERAGE_POOL)):
            if edges := having[o]:
                x = F.max_pool2d(z, 3, stride, 1) if o == MAX_POOL else kernels.average_pool(z, stride)
                shape = (1, len(edges), C, 1, 1)
                x = x.unsqueeze(1) * scales[kind][rows(kind)].view(shape) + biases[kind][rows(kind)].view(shape)
                _add(out, edges, x.flatten(1, 2))
        if (edges := having[SKIP]) and stride == 1:
            weight = pick(columns[SKIP], edges)
            _add(out, edges, (z.unsqueeze(1) * weight.view(1, len(edges), 1, 1, 1)).flatten(1, 2))
        elif edges:
            at = plan.reduced_skips(source)[1]
            y = skip_maps(r, *(skip[at] for skip in skips))
            weight = pick(columns[SKIP], edges).repeat_interleave(C)
            own_mean, own_variance = (x.view(-1, C)[at].reshape(-1) for x in running[1])
            _add(out, edges, F.batch_norm(y, own_mean, own_variance, weight, None, False, 0.0, plan.eps))
        return out

    for source in range(plan.nodes - 1):
        if source >= 2:
            zs.append(close(source - 2))
        (first, stop, node), stride, z = plan.leaving(source), plan.stride(source), zs[source]
        if K > 1:
            x = bypass_of(z, C, stride)
            for k, weight in enumerate(edge_weights[first:stop].unbind()):
                passing[node + k].append(weight * x)
            z = z[:, :C]
        if source == 0:
            nothing = torch.zeros_like(z[:, :, ::stride, ::stride])
        for edges, x in leaving(source, z).items():
            for e, part in zip(edges, x.chunk(len(edges), 1), strict=True):
                entering[node + e - first].append(part)
    return torch.cat([*zs[2:], close(count - 1)], 1)


def _add(sums: dict[Edges, Tensor], edges: Edges, x: Tensor) -> None:
    sums[edges] = sums[edges] + x if edges in sums else x
