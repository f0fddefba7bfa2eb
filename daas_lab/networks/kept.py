"""The network that a super-network is after the cut: the kept operations, with the weights that the search trained.

Legend: B batch, C channels of a cell, H = W side of its map, E kept edges, P kept operations.

It computes what `supernet.py` computes with the mixture of the cut, operation by operation in the same order, less the
terms that are zero. In a `state_dict` every weight has its name in the super-network. Other than in a derived network
pools have a batch-norm, edges and operations have weights, and of partial channels some pass by.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from daas_lab.errors import LabError
from daas_lab.networks.derived import Join, Network, drop_paths
from daas_lab.networks.supernet import MixedEdge
from daas_lab.own_files import named_own
from daas_lab.space.cell_space import input_edges
from daas_lab.space.cost import module_size
from daas_lab.space.genotype import CellGenotype
from daas_lab.space.kept_file import Cut, read_cut
from daas_lab.space.operations import preprocessing


class KeptEdge(MixedEdge):
    """The operations that an edge keeps."""

    drop_path = 0.0  # the probability in force

    def mix(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Σ_o a^o o(x), of which training drops whole samples, as in a derived network."""
        mixed: Any = (weight * self._passed(self[name], x) for name, weight in weights.items())
        return sum(mixed)

    def _passed(self, operation: nn.Module, x: Tensor) -> Tensor:
        z = operation(x)
        drops = self.drop_path > 0 and self.training and not isinstance(operation, nn.Identity)
        return drop_paths(z, self.drop_path) if drops else z


class KeptCell(nn.Module):
    """A cell of the super-network with what a genotype keeps of it.

    `edges` by their places among all edges of the super-network's cell; b [E] and a [P] are buffers: constants.
    """

    edge_weights: Tensor
    operation_weights: Tensor

    def __init__(
        self,
        genotype: CellGenotype,
        channels_in: tuple[int, int],
        channels: int,
        reduces: tuple[bool, bool],
        partial_channels: int = 1,
        affine: bool = False,
    ):
        super().__init__()
        before_reduces, self_reduces = reduces
        self.concat = genotype.concat
        self.preprocess_0, self.preprocess_1 = preprocessing(channels_in, channels, before_reduces, affine)
        kept: dict[tuple[int, int], list[str]] = {}
        for source, node, operation in genotype.edges:
            kept.setdefault((source, node), []).append(operation)
        self.wiring, self.counts = list(kept), list(map(len, kept.values()))
        self.edges, self.join = nn.ModuleDict(), Join()
        for (source, node), names in kept.items():
            stride = 2 if self_reduces and source < 2 else 1
            self.edges[str(input_edges(node)[source])] = KeptEdge(names, channels, stride, partial_channels, affine)
        self.register_buffer("edge_weights", torch.ones(len(kept)))  # b
        self.register_buffer("operation_weights", torch.ones(len(genotype.edges)))  # a

    def forward(self, input_0: Tensor, input_1: Tensor, drop_path: float) -> Tensor:
        """Outputs of the two cells before → [B, len(concat) C, H, W]."""
        states = {0: self.preprocess_0(input_0), 1: self.preprocess_1(input_1)}
        edges: Any = self.edges.values()
        shares = self.operation_weights.split(self.counts)
        for (source, node), edge, b, a in zip(self.wiring, edges, self.edge_weights, shares, strict=True):
            edge.drop_path = drop_path
            z = b * edge(states[source], dict(zip(edge, a, strict=True)))
            states[node] = states[node] + z if node in states else z
        return self.join(*(states[node] for node in self.concat))


def kept_network(cut: Cut, auxiliary: bool = False) -> Network:
    """The network of a cut, with weights as they come; `auxiliary`: with a head for training.

    Every batch-norm has gain and bias for a training that goes on; they begin as what the super-network's amount to.
    """
    for name, digest in cut.own_operations.items():
        named_own("operations", name, digest)
    network = Network(
        cut.genotype,
        channels=cut.channels,
        layers=cut.layers,
        classes=cut.classes,
        image_channels=cut.image_channels,
        auxiliary=auxiliary,
        make_cell=partial(KeptCell, partial_channels=cut.partial_channels, affine=cut.affine),
    )
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d) and not norm.affine:
            norm.affine = True
            norm.weight = nn.Parameter(torch.ones(norm.num_features))
            norm.bias = nn.Parameter(torch.zeros(norm.num_features))
    return network


def size_of(cut: Cut, side: int) -> dict[str, int]:
    """`{"parameters", "multiply_adds"}` of its network for one image of `side` pixels."""
    size = module_size(lambda: kept_network(cut), (cut.image_channels, side, side))
    return dict(zip(("parameters", "multiply_adds"), size, strict=True))


def load_network(path: str | Path) -> Network:
    """The trained network of a file that `daas-lab cut` wrote, in evaluation mode; its cell is `.genotype`.

    Images [B, image channels, H, W], scaled and normalised as in the search → logits [B, classes]. Operations of one's
    own must have been named in this process (`own_files.load_own`): the file executes nothing.
    """
    return load_kept(path).eval()


def load_kept(path: str | Path, digest: str = "", auxiliary: bool = False) -> Network:
    """The same in training mode; with a `digest` no other file's, `auxiliary` with a fresh head."""
    cut, _, content = read_cut(path, digest)
    network = kept_network(cut, auxiliary)
    try:
        missing, unknown = network.load_state_dict(load_safetensors(content), strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise LabError(f"damaged file {path}: {str(error).splitlines()[-1].strip()}") from error
    if wrong := unknown + [name for name in missing if not name.startswith("auxiliary_head.")]:
        raise LabError(f"damaged file {path}: {wrong[0]} is {'unknown' if unknown else 'missing'}")
    return network
