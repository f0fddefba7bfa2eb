"""The super-network: every edge mixes all operations, every node sums all its edges.

Legend: B batch, C channels of a cell, H = W side of its map, E edges of a cell, O operations, G edges of a group.

    mixed edge   f_ij(z) = Σ_o a_ij^o o(z)                                     (§3.1 of the paper)
    node         z_j = Σ_{i<j} b_ij f_ij(z_i)
    cell         concat(z_2, …, z_{N-1})

a and b come from a relaxation of α and β (relaxations.py) that the network is given and does not know. `textbook.py` is
these three lines as loops and the place to read first; here the same sums are taken in another order:

    1. The edges that leave a node share its ReLU, its pools with their batch-norm, and its sub-grids (fused.py, 3).
    2. The convolutions of the edges that leave a node run as grouped ones, as many edges together as pays.
    3. b_ij a_ij^o is the gain of the batch-norm in which operation o ends (fused.py, 4 to 6).
    4. What enters a node on sub-grids is added up there, and brought back once.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from daas_lab import fused
from daas_lab.config import SearchConfig
from daas_lab.genotype import CELL_TYPES, PRIMITIVES, cell_edges
from daas_lab.operations import FactorizedReduce, make_candidate, relu_conv_norm
from daas_lab.relaxations import ArchitectureWeights, Relaxation, initial_architecture

MAX_POOL, AVERAGE_POOL, SKIP, SEP_3, SEP_5, DIL_3, DIL_5 = range(len(PRIMITIVES))


class Statistics:
    """Batch statistics of a forward pass, collected to update all running statistics at once."""

    def __init__(self):
        self.norms: list[nn.BatchNorm2d] = []
        self.means: list[Tensor] = []
        self.variances: list[Tensor] = []

    def add(self, norms: list[nn.BatchNorm2d], means: Tensor, variances: Tensor) -> None:
        """Means and unbiased variances [G C] of the G `norms`, or [C] that all of them share."""
        self.norms += norms
        shared = means.dim() == 1 and means.numel() == norms[0].num_features
        self.means += [means] * len(norms) if shared else means.view(len(norms), -1).unbind()
        self.variances += [variances] * len(norms) if shared else variances.view(len(norms), -1).unbind()

    def extend(self, norms: list[nn.BatchNorm2d], means: list[Tensor], variances: list[Tensor]) -> None:
        """What a cell has collected."""
        self.norms += norms
        self.means += means
        self.variances += variances

    @torch.no_grad()
    def update(self) -> None:
        """Move the running statistics of every norm by its momentum; None: average over all batches so far."""
        if not self.norms:
            return
        counts = [norm.num_batches_tracked for norm in self.norms]
        torch._foreach_add_(counts, 1)
        by_momentum: dict[float, list[int]] = {}
        for k, norm in enumerate(self.norms):
            momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            by_momentum.setdefault(momentum, []).append(k)
        for momentum, chosen in by_momentum.items():
            running = [self.norms[k].running_mean for k in chosen] + [self.norms[k].running_var for k in chosen]
            batch = [self.means[k] for k in chosen] + [self.variances[k] for k in chosen]
            torch._foreach_lerp_(running, batch, momentum)


class MixedEdge(nn.ModuleDict):
    """The candidate operations of one edge, by name; with partial channels only C / K channels pass through them."""

    def __init__(self, channels: int, stride: int, partial_channels: int):
        super().__init__({name: make_candidate(name, channels // partial_channels, stride) for name in PRIMITIVES})
        self.stride, self.partial_channels = stride, partial_channels


class MixedCell(nn.Module):
    """A cell with all its edges. Its inputs are the outputs of the two cells before it, brought to C channels."""

    make_edge = MixedEdge

    def __init__(self, config: SearchConfig, channels_in: tuple[int, int], channels: int, reduces: tuple[bool, bool]):
        super().__init__()
        before_reduces, self_reduces = reduces
        self.cell_type = "reduce" if self_reduces else "normal"
        self.nodes, self.partial_channels = config.nodes, config.partial_channels
        preprocess = FactorizedReduce if before_reduces else relu_conv_norm
        self.preprocess_0 = preprocess(channels_in[0], channels, affine=False)
        self.preprocess_1 = relu_conv_norm(channels_in[1], channels, affine=False)
        self.edges = nn.ModuleList(
            self.make_edge(channels, 2 if self_reduces and source < 2 else 1, config.partial_channels)
            for source, _ in cell_edges(config.nodes)
        )

    def forward(self, input_0: Tensor, input_1: Tensor, operations: Tensor, edges: Tensor):
        """Operation weights a [E, O], edge weights b [E] → [B, (N-2) C, H, W], and batch statistics if training."""
        statistics = Statistics() if self.training else None
        gains = edges.unsqueeze(1) * operations
        sums: list[list[Tensor]] = [[] for _ in range(self.nodes)]  # what enters each node
        subgrid_sums: list[list[Tensor]] = [[] for _ in range(self.nodes)]  # the same on sub-grids
        bypasses: list[list[Tensor]] = [[] for _ in range(self.nodes)]  # channels that pass no operation
        states = [
            _preprocess(self.preprocess_0, input_0, statistics),
            _preprocess(self.preprocess_1, input_1, statistics),
        ]
        for source in range(self.nodes - 1):
            if source >= 2:
                states.append(self._node(sums[source], subgrid_sums[source], bypasses[source]))
            leaving = [(e, node) for e, (i, node) in enumerate(cell_edges(self.nodes)) if i == source]
            chosen, targets = zip(*leaving, strict=True)
            z = states[source]
            if self.partial_channels > 1:
                passed = z.shape[1] // self.partial_channels
                bypass = z[:, passed:] if self.edges[chosen[0]].stride == 1 else F.max_pool2d(z[:, passed:], 2)
                z = fused.as_pixels_last(z[:, :passed])
                scaled = fused.mix(edges[list(chosen)].unsqueeze(1), fused.as_pixels_last(bypass))
                for node, x in zip(targets, scaled, strict=True):
                    bypasses[node].append(x)
            plain, on_subgrids = self._leave(z, chosen, gains, statistics)
            for node, x in zip(targets, plain, strict=True):
                sums[node] += x
            for node, x in zip(targets, on_subgrids, strict=True):
                subgrid_sums[node] += x
        states.append(self._node(sums[-1], subgrid_sums[-1], bypasses[-1]))
        output = torch.cat(states[2:], dim=1)
        batch = statistics or Statistics()
        return output, batch.norms, batch.means, batch.variances

    def _node(self, sums: list[Tensor], subgrid_sums: list[Tensor], bypasses: list[Tensor]) -> Tensor:
        """All that enters a node, [B, C, H, W]."""
        if subgrid_sums:
            sums = [*sums, fused.from_subgrids(_total(subgrid_sums))]
        z = _total(sums)
        return F.channel_shuffle(torch.cat([z, _total(bypasses)], 1), self.partial_channels) if bypasses else z

    def _leave(self, z: Tensor, chosen: tuple[int, ...], gains: Tensor, statistics: Statistics | None):
        """z [B, C, H, W] → for each of the `chosen` edges the maps whose sum is its output: plain, and on sub-grids."""
        edges = [self.edges[e] for e in chosen]
        stride = edges[0].stride
        r = F.relu(z)
        even = z.shape[2] % 2 == 0 and z.shape[3] % 2 == 0
        dilated, dilation = r, 2
        if even:
            # With stride 2 a dilated convolution sees one sub-grid only.
            dilated = fused.as_pixels_last(r[:, :, ::2, ::2]) if stride == 2 else fused.to_subgrids(r)
            dilation = 1
        shared = [
            self._norm(pool, [edge[name].norm for edge in edges], statistics)
            for name, pool in (
                ("max_pool_3x3", F.max_pool2d(z, 3, stride, 1)),
                ("avg_pool_3x3", fused.average_pool(z, stride)),
            )
        ]
        shares = [MAX_POOL, AVERAGE_POOL]
        if stride == 1:
            shared, shares = [*shared, z], [*shares, SKIP]
        rows = gains[list(chosen)]
        plain = [[x] for x in fused.mix(rows[:, shares], *shared)]
        on_subgrids: list[list[Tensor]] = [[] for _ in chosen]
        size = fused.group_size(r, len(edges))
        for start in range(0, len(edges), size):
            group, weights = edges[start : start + size], rows[start : start + size]
            seps = []
            for name in ("sep_conv_3x3", "sep_conv_5x5"):
                operations = [edge[name] for edge in group]
                u = fused.depthwise(r, _stack(operations, "depthwise_1"), stride)
                u = self._pointwise([u], [operations], "1", torch.ones_like(weights[:, :1]), statistics)
                seps.append(fused.depthwise(F.relu(u, inplace=True), _stack(operations, "depthwise_2")))
            operations = [[edge[name] for edge in group] for name in ("sep_conv_3x3", "sep_conv_5x5")]
            out = self._pointwise(seps, operations, "2", weights[:, [SEP_3, SEP_5]], statistics)
            operations = [[edge[name] for edge in group] for name in ("dil_conv_3x3", "dil_conv_5x5")]
            dils = [
                fused.depthwise(dilated, _stack(ops, "depthwise"), 1 if even else stride, dilation)
                for ops in operations
            ]
            dil = self._pointwise(dils, operations, "", weights[:, [DIL_3, DIL_5]], statistics)
            if even and stride == 1:
                for maps, x in zip(on_subgrids[start:], _split(dil, len(group)), strict=False):
                    maps.append(x)
            else:
                out = out + dil
            for maps, x in zip(plain[start:], _split(out, len(group)), strict=False):
                maps.append(x)
        if stride == 2:
            skips = [edge["skip_connect"] for edge in edges]
            for maps, x in zip(plain, self._skip_reduce(r, skips, rows[:, SKIP], statistics), strict=True):
                maps.append(x)
        return plain, on_subgrids

    def _norm(self, y: Tensor, norms: list[nn.BatchNorm2d], statistics: Statistics | None) -> Tensor:
        """Batch-norm of a map that all `norms` see: once in training; at evaluation by the first one's statistics,
        which are those of all, as long as they were updated together."""
        if statistics is None:
            return F.batch_norm(y, norms[0].running_mean, norms[0].running_var, None, None, False, 0.0, norms[0].eps)
        y, mean, variance = fused.batch_norm(y, None, norms[0].eps)
        statistics.add(norms, mean, variance)
        return y

    def _pointwise(self, inputs, operations, suffix: str, gains: Tensor, statistics: Statistics | None) -> Tensor:
        """K maps [B, G C, H, W] through pointwise convolution and norm of K × G operations, summed by gains [G, K]."""
        suffix = f"_{suffix}" if suffix else ""
        weights = [_stack(ops, f"pointwise{suffix}") for ops in operations]
        norms = [[getattr(op, f"norm{suffix}") for op in ops] for ops in operations]
        eps = norms[0][0].eps
        if statistics is not None:
            out, means, variances = fused.pointwise_norm_sum(inputs, weights, gains.t(), eps)
            for ops, mean, variance in zip(norms, means.unbind(), variances.unbind(), strict=True):
                statistics.add(ops, mean, variance)
            return out
        return fused.pointwise_running_norm_sum(inputs, weights, gains.t(), norms)

    def _skip_reduce(self, r: Tensor, skips, gains: Tensor, statistics: Statistics | None) -> list[Tensor]:
        """The factorised reductions of all edges that leave a node, each times its gain [n]."""
        corners = (fused.as_pixels_last(r[:, :, ::2, ::2]), fused.as_pixels_last(r[:, :, 1::2, 1::2]))
        halves = [
            fused.pointwise(x, torch.cat([getattr(skip, name).weight for skip in skips]))
            for x, name in zip(corners, ("conv_1", "conv_2"), strict=True)
        ]
        split = zip(*(half.chunk(len(skips), 1) for half in halves), strict=True)
        y = torch.cat([torch.cat(pair, 1) for pair in split], 1)
        norms = [skip.norm for skip in skips]
        gain = gains.repeat_interleave(y.shape[1] // len(skips))
        if statistics is None:
            mean, variance = (torch.cat([getattr(n, f"running_{what}") for n in norms]) for what in ("mean", "var"))
            y = F.batch_norm(y, mean, variance, gain, None, False, 0.0, norms[0].eps)
        else:
            y, mean, variance = fused.batch_norm(y, gain, norms[0].eps)
            statistics.add(norms, mean, variance)
        return _split(y, len(skips))


def _preprocess(module: nn.Module, x: Tensor, statistics: Statistics | None) -> Tensor:
    """What `module` computes; its running statistics wait for the end of the forward pass like all others."""
    r = F.relu(x)
    if isinstance(module, FactorizedReduce):
        corners = (fused.as_pixels_last(r[:, :, a::2, a::2]) for a in (0, 1))
        convs = (module.conv_1, module.conv_2)
        y = torch.cat([fused.pointwise(c, conv.weight) for c, conv in zip(corners, convs, strict=True)], 1)
    else:
        y = fused.pointwise(r, module.conv.weight)
    if statistics is None:
        return module.norm(y)
    y, mean, variance = fused.batch_norm(y, None, module.norm.eps)
    statistics.add([module.norm], mean, variance)
    return y


def _total(maps: list[Tensor]) -> Tensor:
    total = maps[0]
    for x in maps[1:]:
        total = total + x
    return total


def _split(x: Tensor, groups: int) -> list[Tensor]:
    return [x] if groups == 1 else list(x.chunk(groups, 1))


def _stack(operations, name: str) -> Tensor:
    weights = [getattr(operation, name).weight for operation in operations]
    return weights[0] if len(weights) == 1 else torch.cat(weights)


class SuperNetwork(nn.Module):
    """Stem, cells, classifier, and the architecture parameters α and β of both cell types.

    `epoch` is read by relaxations that change during the search; the trainer sets it. `checkpointed`: keep only what
    enters each cell, and run the cell again in the backward pass.
    """

    make_cell = MixedCell

    def __init__(self, config: SearchConfig, relaxation: Relaxation, checkpointed: bool = False):
        super().__init__()
        self.relaxation, self.epoch, self.checkpointed = relaxation, config.epochs, checkpointed
        for name, value in initial_architecture(config).items():
            self.register_parameter(name, nn.Parameter(value))  # alphas_… [E, O], betas_… [E]
        channels = config.channels
        self.stem = nn.Sequential(
            nn.Conv2d(config.image_channels, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels)
        )
        self.cells = nn.ModuleList()
        channels_in, before_reduces = (3 * channels, 3 * channels), False
        for layer in range(config.layers):
            reduces = layer in (config.layers // 3, 2 * config.layers // 3)
            channels *= 2 if reduces else 1
            self.cells.append(self.make_cell(config, channels_in, channels, (before_reduces, reduces)))
            channels_in, before_reduces = (channels_in[1], (config.nodes - 2) * channels), reduces
        self.classifier = nn.Linear(channels_in[1], config.classes)

    def forward(self, x: Tensor, weights: Mapping[str, ArchitectureWeights] | None = None) -> Tensor:
        """Images [B, image channels, H, W] → logits [B, classes], mixed by `weights` or else by α and β."""
        weights = self.architecture_weights() if weights is None else weights
        states = (self.stem(fused.as_pixels_last(x)),) * 2
        statistics = Statistics()
        for cell in self.cells:
            arguments = (*states, weights[cell.cell_type].operations, weights[cell.cell_type].edges)
            if self.checkpointed and torch.is_grad_enabled():
                output, *batch = checkpoint(cell, *arguments, use_reentrant=False)
            else:
                output, *batch = cell(*arguments)
            statistics.extend(*batch)
            states = (states[1], output)
        statistics.update()
        return self.classifier(states[1].mean(dim=(2, 3)))

    def architecture_weights(self) -> dict[str, ArchitectureWeights]:
        """Cell type → what the relaxation makes of its α and β."""
        return {
            cell_type: self.relaxation(self.alphas(cell_type), self.betas(cell_type), cell_type, self.epoch)
            for cell_type in CELL_TYPES
        }

    def alphas(self, cell_type: str) -> nn.Parameter:
        """α of `"normal"` or `"reduce"` cells, [E, O]."""
        return getattr(self, f"alphas_{cell_type}")

    def betas(self, cell_type: str) -> nn.Parameter:
        """β of `"normal"` or `"reduce"` cells, [E]."""
        return getattr(self, f"betas_{cell_type}")

    def arch_parameters(self) -> list[nn.Parameter]:
        """α of both cell types, then β of both."""
        return [get(cell_type) for get in (self.alphas, self.betas) for cell_type in CELL_TYPES]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Everything else."""
        architecture = {id(parameter) for parameter in self.arch_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in architecture]
