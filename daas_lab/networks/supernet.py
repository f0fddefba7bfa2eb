"""The super-network: every edge mixes all candidate operations, every node sums all its edges.

Legend: B batch, C channels of a cell, H = W side of its map, E edges of a cell, O operations.

    mixed edge   f_ij(z) = Σ_o a_ij^o o(z)                                     (§3.1 of the paper)
    node         z_j = Σ_{i<j} b_ij f_ij(z_i)
    cell         concat(z_2, …, z_{N-1})

a and b are what a method makes of α and β (`Method.mix`); the network mixes with them and knows no method. Here the
three lines are loops, for any space. `fast_supernet.py` computes the same function sooner where the operations are of
the paper's seven, and is tested against this one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daas_lab.errors import refuse
from daas_lab.methods.method import Architecture, Method, Mixture, Moment
from daas_lab.space.budget import EdgeBudget, two_edges
from daas_lab.space.cell_space import CELL_TYPES, Space
from daas_lab.space.operations import make_candidate, preprocessing
from daas_lab.space.skeleton import layers_of, make_stem

Computed = list[list[bool]] | None  # who is computed [E, O]; None: all


class MixedEdge(nn.ModuleDict):
    """The candidate operations of one edge, by name; with K partial channels only C / K pass through them."""

    def __init__(
        self, operations: Sequence[str], channels: int, stride: int, partial_channels: int = 1, affine: bool = False
    ):
        passed = channels // partial_channels
        super().__init__({name: make_candidate(name, passed, stride, affine) for name in operations})
        self.stride, self.partial_channels = stride, partial_channels

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """x [B, C, H, W], candidates that are computed with their weights a_ij → [B, C, H / stride, W / stride]."""
        if self.partial_channels == 1:
            return self.mix(x, weights)
        passed = x.shape[1] // self.partial_channels
        bypass = x[:, passed:] if self.stride == 1 else F.max_pool2d(x[:, passed:], 2)
        return F.channel_shuffle(torch.cat([self.mix(x[:, :passed], weights), bypass], dim=1), self.partial_channels)

    def mix(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Σ_o a^o o(x)."""
        mixed = [weight * self[name](x) for name, weight in weights.items()]
        return sum(mixed[1:], start=mixed[0]) if mixed else torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class MixedCell(nn.Module):
    """A cell that computes edge after edge. Its inputs are the outputs of the two cells before it."""

    def __init__(
        self,
        space: Space,
        channels_in: tuple[int, int],
        channels: int,
        reduces: tuple[bool, bool],
        partial_channels: int = 1,
        affine: bool = False,
    ):
        super().__init__()
        before_reduces, self_reduces = reduces
        self.edges: Any
        self.cell_type, self.nodes = "reduce" if self_reduces else "normal", space.nodes
        self.operations = space.operations
        self.preprocess_0, self.preprocess_1 = preprocessing(channels_in, channels, before_reduces, affine)
        self.edges = nn.ModuleList(
            MixedEdge(space.operations, channels, 2 if self_reduces and source < 2 else 1, partial_channels, affine)
            for source, _ in space.edges
        )

    def forward(self, input_0: Tensor, input_1: Tensor, operations: Tensor, edges: Tensor, computed: Computed = None):
        """Operation weights a [E, O], edge weights b [E], who is `computed` [E, O] → [B, (N-2) C, H, W]."""
        states = [self.preprocess_0(input_0), self.preprocess_1(input_1)]
        e = 0
        for _ in range(2, self.nodes):
            inputs = [(e + source, z) for source, z in enumerate(states) if len(self.edges[e + source])]
            mixed = [edges[k] * self.edges[k](z, self._weights(k, operations[k], computed)) for k, z in inputs]
            e += len(states)
            states.append(sum(mixed[1:], start=mixed[0]) if mixed else self._nothing(states[0]))
        return torch.cat(states[2:], dim=1)

    def _weights(self, k: int, weights: Tensor, computed: Computed) -> dict[str, Tensor]:
        """Of edge k the candidates that have not retired and are `computed`, with their weights."""
        chosen = [True] * len(self.operations) if computed is None else computed[k]
        return {name: weights[o] for o, name in enumerate(self.operations) if chosen[o] and name in self.edges[k]}

    def _nothing(self, x: Tensor) -> Tensor:
        """What a node is that no edge enters any more."""
        stride = 2 if self.cell_type == "reduce" else 1
        return torch.zeros_like(x[:, :, ::stride, ::stride])


class SuperNetwork(nn.Module):
    """Stem, cells, classifier, and the architecture parameters α and β of both cell types.

    `budget` tells the method how many edges the search shall keep, for its start: two a node unless it says otherwise.
    `at`, a `Moment`, is what the method is asked for; the trainer sets it. It begins as the last epoch of a search.
    """

    cells: Any  # an nn.ModuleList, of whose items torch's types say only that they are modules

    def __init__(
        self,
        space: Space,
        method: Method,
        *,
        budget: EdgeBudget | None = None,
        channels: int,
        layers: int,
        classes: int,
        image_channels: int = 3,
        partial_channels: int = 1,
    ):
        super().__init__()
        budget = two_edges(space.nodes) if budget is None else budget
        budget.check(space)
        if channels % partial_channels:
            raise refuse("channels", channels, f"divisible by partial_channels = {partial_channels}")
        self.space, self.method, self.at = space, method, Moment(1, 1, space=space)
        for cell_type in CELL_TYPES:
            alphas, betas = method.start(space, budget.only(cell_type))
            self.register_parameter(f"alphas_{cell_type}", nn.Parameter(alphas))  # [E, O]
            self.register_parameter(f"betas_{cell_type}", nn.Parameter(betas))  # [E]
        self.channels, self.classes, self.image_channels = channels, classes, image_channels
        self.partial_channels = partial_channels
        self.begin(layers)

    def begin(self, layers: int) -> None:
        """All but α and β afresh: stem, `layers` cells with every candidate, and classifier."""
        space = self.space
        everyone = torch.ones(len(space.edges), len(space.operations), dtype=torch.bool)
        self.candidates = dict.fromkeys(CELL_TYPES, everyone)  # that are still computed, [E, O] of each cell type
        self.stem = make_stem("cifar", self.image_channels, self.channels)
        self.cells = nn.ModuleList()
        outputs, channels = space.nodes - 2, self.channels
        shapes = layers_of("cifar", channels, layers, dict.fromkeys(CELL_TYPES, outputs))
        for _, channels_in, channels, reduces in shapes:
            self.cells.append(
                MixedCell(space, channels_in, channels, reduces, self.partial_channels, self.method.affine)
            )
        self.classifier = nn.Linear(outputs * channels, self.classes)
        for name, parameter in self.named_parameters():
            if not name.startswith(("alphas_", "betas_")) and not self.method.trains_weight(name):
                parameter.requires_grad_(False)

    def keep(self, candidates: Mapping[str, Tensor]) -> dict[nn.Parameter, tuple[nn.Parameter, Tensor]]:
        """Retires all candidates but these, [E, O] of each cell type, from every cell: they are not computed any more,
        as if they weighed 0. Returns the parameters that others have replaced, with their successors and which of the
        old rows these have."""
        self.candidates = dict(candidates)
        for cell in self.cells:
            for edge, own in zip(cell.edges, candidates[cell.cell_type].tolist(), strict=True):
                for name, stays in zip(self.space.operations, own, strict=True):
                    if not stays and name in edge:
                        del edge[name]
        return {}

    def forward(self, x: Tensor, mixtures: Mapping[str, Mixture] | None = None) -> Tensor:
        """Images [B, image channels, H, W] → logits [B, classes]; mixed by `mixtures`, by default those of α and β."""
        mixtures = self.mixtures() if mixtures is None else mixtures
        states = (self.stem(x),) * 2
        computed = self.who_is_computed(mixtures)
        for cell in self.cells:
            operations, edges = mixtures[cell.cell_type][:2]
            states = (states[1], cell(*states, operations, edges, computed[cell.cell_type]))
        return self.classifier(states[1].mean(dim=(2, 3)))

    def who_is_computed(self, mixtures: Mapping[str, Mixture]) -> dict[str, Computed]:
        """Cell type → who is computed in this pass: in evaluation all."""
        return {
            name: mixture.computed.tolist() if self.training and mixture.computed is not None else None
            for name, mixture in mixtures.items()
        }

    def architectures(self) -> dict[str, Architecture]:
        """Cell type → its α and β."""
        return {name: Architecture(self.alphas(name), self.betas(name)) for name in CELL_TYPES}

    def mixtures(self) -> dict[str, Mixture]:
        """Cell type → what the method makes of its α and β at this moment."""
        return {name: self.method.mix(both, name, self.at) for name, both in self.architectures().items()}

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
        """Everything else that the method trains."""
        architecture, trains = {id(parameter) for parameter in self.arch_parameters()}, self.method.trains_weight
        return [own for name, own in self.named_parameters() if id(own) not in architecture and trains(name)]
