"""The super-network as a loop: every edge mixes all operations, every node sums all its edges.

The oracle of the tests and the baseline of the benchmark; the library itself uses supernet.py, the same function.

Legend: B batch, C channels of a cell, H = W side of its map, E edges of a cell, O operations.

    mixed edge   f_ij(z) = Σ_o a_ij^o o(z)                                     (§3.1 of the paper)
    node         z_j = Σ_{i<j} b_ij f_ij(z_i)
    cell         concat(z_2, …, z_{N-1})

a and b come from a relaxation of α and β (relaxations.py) that the network is given and does not know.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daas_lab.methods.method import Mixture
from daas_lab.networks import supernet
from daas_lab.space.cell_space import PRIMITIVES, cell_edges
from daas_lab.space.operations import FactorizedReduce, make_candidate, relu_conv_norm


class MixedEdge(nn.ModuleDict):
    """The candidate operations of one edge, by name; with partial channels only C / K channels pass through them."""

    def __init__(self, channels: int, stride: int, partial_channels: int):
        super().__init__({name: make_candidate(name, channels // partial_channels, stride) for name in PRIMITIVES})
        self.stride, self.partial_channels = stride, partial_channels

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """x [B, C, H, W], weights a_ij [O] → [B, C, H / stride, W / stride]."""
        if self.partial_channels == 1:
            return self.mix(x, weights)
        passed = x.shape[1] // self.partial_channels
        bypass = x[:, passed:] if self.stride == 1 else F.max_pool2d(x[:, passed:], 2)
        return F.channel_shuffle(torch.cat([self.mix(x[:, :passed], weights), bypass], dim=1), self.partial_channels)

    def mix(self, x: Tensor, weights: Tensor) -> Tensor:
        """Σ_o a^o o(x)."""
        return sum(weight * operation(x) for weight, operation in zip(weights, self.values(), strict=True))


class MixedCell(nn.Module):
    """A cell that computes edge after edge. Its inputs are the outputs of the two cells before it."""

    def __init__(
        self, nodes: int, partial_channels: int, channels_in: tuple[int, int], channels: int, reduces: tuple[bool, bool]
    ):
        super().__init__()
        before_reduces, self_reduces = reduces
        self.cell_type, self.nodes = "reduce" if self_reduces else "normal", nodes
        preprocess = FactorizedReduce if before_reduces else relu_conv_norm
        self.preprocess_0 = preprocess(channels_in[0], channels, affine=False)
        self.preprocess_1 = relu_conv_norm(channels_in[1], channels, affine=False)
        self.edges = nn.ModuleList(
            MixedEdge(channels, 2 if self_reduces and source < 2 else 1, partial_channels)
            for source, _ in cell_edges(nodes)
        )

    def forward(self, input_0: Tensor, input_1: Tensor, operations: Tensor, edges: Tensor) -> Tensor:
        """Operation weights a [E, O], edge weights b [E] → [B, (N-2) C, H, W]."""
        states = [self.preprocess_0(input_0), self.preprocess_1(input_1)]
        e = 0
        for _ in range(2, self.nodes):
            inputs = range(e, e + len(states))
            states.append(sum(edges[k] * self.edges[k](z, operations[k]) for k, z in zip(inputs, states, strict=True)))
            e += len(inputs)
        return torch.cat(states[2:], dim=1)


class SuperNetwork(supernet.SuperNetwork):
    """The super-network with the cells above."""

    make_cell = MixedCell

    def forward(self, x: Tensor, mixtures: Mapping[str, Mixture] | None = None) -> Tensor:
        """Images [B, image channels, H, W] → logits [B, classes], mixed by `mixtures` or else by α and β."""
        mixtures = self.mixtures() if mixtures is None else mixtures
        states = (self.stem(x),) * 2
        for cell in self.cells:
            mixture = mixtures[cell.cell_type]
            states = (states[1], cell(*states, mixture.operations, mixture.edges))
        return self.classifier(states[1].mean(dim=(2, 3)))
